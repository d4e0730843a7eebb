/**
 * Opens a qcow2 image: everything that can refuse it comes before the first write (QC-LIM-06). Repairs a dirty image that is opened for
 * writing.
 */
import type { Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import { checkImageFile, type ImageFile } from "../image-file.ts"
import type { Cryptography } from "../luks/cryptography.ts"
import { askPassphrase, checkAnswer, type PassphraseOption } from "../luks/passphrase.ts"
import { repairQcow2 } from "./check/repair.ts"
import type { ImageCipher } from "./encrypted-data.ts"
import { encryptedImage, unlockImage } from "./encryption.ts"
import { decodeText } from "../bytes/fields.ts"
import type { Decompressor } from "./format/compression.ts"
import { backingFormat, dataFileName, hasFeature, headerGeometry, type Qcow2Header } from "./format/header.ts"
import { readHeader } from "./format/parse-header.ts"
import { readSnapshotTable } from "./format/snapshot-table.ts"
import { INCOMPATIBLE_BIT } from "./format/spec.ts"
import { refuseCorruptForWriting, refuseUnsupported } from "./format/unsupported.ts"
import { Qcow2Image } from "./image.ts"
import type { OverlapCheck } from "./metadata/snapshot-l2-tables.ts"
import { readableSnapshot, snapshotHeader } from "./snapshots/find-snapshot.ts"
import { pageDecompressor } from "./page-decompressor.ts"
import { type BackingDisk, checkBackingDisk } from "./reader.ts"

/** The backing file, or the external data file, that an image names. */
export interface BackingReference {
  /** As the image stores it: trust it no more than the image. Empty for a data file that the image does not name. */
  readonly name: string
  /** The format that the image states, if it does. */
  readonly format: string | undefined
  /** File name of the image that names it. */
  readonly imagePath: string
  /** True for an external data file, which holds the guest's data and is writable if the image is. */
  readonly isDataFile?: true
}

/** Options of `openQcow2`. */
export interface Qcow2Options {
  /** Default: as the file was opened. */
  readonly readOnly?: boolean
  /** Opens the backing file, which the image then owns and closes. Without this, an image that names one is refused. */
  readonly openBacking?: (reference: BackingReference) => BackingDisk
  /** Opens the external data file, which the image then owns and closes. Without this, an image that needs one is refused. */
  readonly openDataFile?: (reference: BackingReference) => ImageFile
  /** Reads compressed clusters. Default: our own decompressor in plain JavaScript. */
  readonly decompressor?: Decompressor
  /** Opens an encrypted image: a passphrase, or a function that returns it. Default: an encrypted image is refused. */
  readonly passphrase?: PassphraseOption
  /** The cryptography for encrypted images. Default: Node's. A page's cryptography is asynchronous, so only `openDisk` can use it. */
  readonly cryptography?: Cryptography
  /** Bytes of memory for cached L2 tables and refcount blocks. Default 32 MiB. */
  readonly cacheSize?: number
  /**
   * A discarded cluster keeps its place in the file, and later writes go to the same place: the image does not fragment, and grows less.
   * The host still gets the space back, if the file supports holes. For version 3 only. Default false.
   */
  readonly discardNoUnref?: boolean
  /** Opens an internal snapshot, by its id or its name, read-only. */
  readonly snapshot?: string
  /**
   * The metadata that no guest write may hit, even if a corrupt image maps it. "cached": the metadata of the disk, and the snapshots' L1
   * tables. "all": the snapshots' L2 tables too, so that opening reads all L1 tables. Default "cached".
   */
  readonly overlapCheck?: OverlapCheck
}

export const QCOW2_RULES: Rules<Qcow2Options> = {
  readOnly: "boolean?", openBacking: "function?", openDataFile: "function?", decompressor: "object?", passphrase: "any?",
  cryptography: "object?", cacheSize: "number?", discardNoUnref: "boolean?", snapshot: "string?", overlapCheck: ["cached", "all"],
}

/** Internal options, for code that opens backing chains. */
export interface OpeningOptions extends Qcow2Options {
  /**
   * The cipher of an image that is already unlocked: deriving a key takes seconds, and opening an asynchronous file takes many attempts.
   */
  readonly cipher?: ImageCipher | undefined
}

const DEFAULT_CACHE_SIZE = 32 * 1024 * 1024

/**
 * Opens the image in `file`. The image then owns `file`; after an error the caller still owns it. Opening for writing repairs a dirty image
 * (QC-FEAT-04) and clears the autoclear bits (QC-FEAT-03).
 *
 * After an error that is not a `BackingError` (`NotLoaded`) the files of `openBacking` and `openDataFile` stay open: the call can be
 * repeated.
 * @throws BackingError `invalid-format`, `unsupported`, `corrupt`, or what the file and the backing file throw
 * @throws TypeError if `file` is not an image file
 */
export function openQcow2Image(file: ImageFile, options: OpeningOptions = {}): Qcow2Image {
  checkImageFile("openQcow2", file)
  const readOnly = options.readOnly ?? (options.snapshot !== undefined || file.readOnly)
  if (options.snapshot !== undefined && !readOnly) {
    throw new BackingError("read-only", "a snapshot can only be read; leave out readOnly, or apply the snapshot first", { path: file.path })
  }
  if (!readOnly && file.readOnly) {
    throw new BackingError("read-only", "the file is open read-only, so the image cannot be opened for writing", { path: file.path })
  }
  const found = readHeader(file)
  refuseUnsupported(found, file.path)
  if (!readOnly) refuseCorruptForWriting(found, file.path)
  if (!readOnly && options.discardNoUnref === true && found.version < 3) {
    const message = "discardNoUnref needs version 3 of the format: version 2 cannot say that a cluster reads as zeroes"
    throw new BackingError("unsupported", message, { path: file.path })
  }
  const seen = seenHeader(file, found, options.snapshot)
  const cipher = options.cipher ?? unlock(file, found, options)
  const dataFile = openDataFile(found, { options, readOnly, imagePath: file.path })
  let backing: BackingDisk | undefined
  try {
    backing = openBacking(found, options, file.path)
    const header = !readOnly && hasFeature(found.incompatibleFeatures, INCOMPATIBLE_BIT.DIRTY) ? repairDirty(file) : seen
    const { decompressor = pageDecompressor, cacheSize = DEFAULT_CACHE_SIZE, discardNoUnref = false, overlapCheck = "cached" } = options
    return new Qcow2Image({ file, header, readOnly, cipher, backing, dataFile, decompressor, overlapCheck, cacheSize, discardNoUnref })
  } catch (error) {
    if (error instanceof BackingError) {
      backing?.close()
      dataFile?.close()
    }
    throw error
  }
}

/** The header of the opened disk: the image's own, or one made for a snapshot. */
function seenHeader(file: ImageFile, found: Qcow2Header, snapshot: string | undefined): Qcow2Header {
  const { snapshots } = readSnapshotTable(file, found)
  return snapshot === undefined ? found : snapshotHeader(found, readableSnapshot(snapshots, snapshot, found, file.path))
}

interface DataFileOpening {
  readonly options: Qcow2Options
  readonly readOnly: boolean
  readonly imagePath: string
}

/** The external data file, which holds the guest's data instead of the image file (QC-DF-05), if the image has one. */
function openDataFile(header: Qcow2Header, { options, readOnly, imagePath }: DataFileOpening): ImageFile | undefined {
  if (!headerGeometry(header).hasDataFile) return undefined
  const name = dataFileName(header)
  if (options.openDataFile === undefined) {
    const named = name === undefined ? "and does not name it" : `"${name}"`
    const remedy = 'give it by the option "openDataFile" of openQcow2 ("backing" of openDisk, "dataFile" of openImage)'
    const message = `it needs its external data file ${named}, which was not supplied; ${remedy}`
    throw new BackingError("unsupported", message, { path: imagePath })
  }
  const file = options.openDataFile({ name: name ?? "", format: "raw", imagePath, isDataFile: true })
  checkImageFile("openQcow2", file)
  if (readOnly || !file.readOnly) return file
  file.close()
  throw new BackingError("read-only", "its external data file is read-only; open the image read-only too", { path: imagePath })
}

function unlock(file: ImageFile, header: Qcow2Header, { passphrase, cryptography }: Qcow2Options): ImageCipher | undefined {
  const image = encryptedImage(header, file.path)
  if (image === undefined) return undefined
  const answer = askPassphrase(passphrase, image)
  checkAnswer("openQcow2", answer, "what the option passphrase returned")
  return unlockImage(file, header, { passphrase: answer, cryptography })
}

function openBacking(header: Qcow2Header, options: Qcow2Options, imagePath: string): BackingDisk | undefined {
  if (header.backingFile === undefined) return undefined
  const name = decodeText(header.backingFile)
  if (options.openBacking === undefined) {
    const remedy = 'give its source by the option "backing" ("openBacking" of openQcow2), or make one image of both with qemu-img convert'
    throw new BackingError("unsupported", `it needs its backing file "${name}", which was not supplied; ${remedy}`, { path: imagePath })
  }
  const disk = options.openBacking({ name, format: backingFormat(header), imagePath })
  checkBackingDisk("openQcow2", disk)
  return disk
}

/** Repairs a dirty image and returns its new header: its refcounts may be too low, and we would allocate clusters that are in use. */
function repairDirty(file: ImageFile): Qcow2Header {
  repairQcow2(file, "all")
  const header = readHeader(file)
  if (
    hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.DIRTY) || hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.CORRUPT)
  ) {
    throw new BackingError("corrupt", "the image was not closed properly and could not be repaired; open it read-only", { path: file.path })
  }
  return header
}
