/**
 * Opens an image with all its backing files: probes formats, bounds the chain, and names in each error the image that refers to the file.
 * Nothing here needs Node; `open.ts` supplies Node's files.
 */
import { checkValue } from "../options.ts"
import { BackingError } from "./backing.ts"
import type { ImageFile } from "./image-file.ts"
import type { Cryptography } from "./luks/cryptography.ts"
import { LinkError } from "./link-error.ts"
import { askPassphrase, checkAnswer, type PassphraseOption } from "./luks/passphrase.ts"
import { lockedFile, unlockFile } from "./luks/raw-luks.ts"
import { LOCKED_CIPHER } from "./luks/sector-cipher.ts"
import type { Decompressor } from "./qcow2/format/compression.ts"
import type { Qcow2Image } from "./qcow2/image.ts"
import { headerGeometry } from "./qcow2/format/header.ts"
import { readHeader } from "./qcow2/format/parse-header.ts"
import { type BackingReference, openQcow2Image, type Qcow2Options } from "./qcow2/open.ts"
import { RawBacking } from "./raw.ts"
import { type ImageFormat, probeFormat } from "./signatures.ts"

/** A file with an identity, which can be locked. */
export interface ChainFile extends ImageFile {
  /** The same for every path that leads to one file. */
  readonly identity: string
  /** Locks the file until it is closed. @throws BackingError `busy` when somebody else has it open */
  claim(): void
}

export interface ChainOptions {
  /** Of the first image. Undefined: probed. */
  readonly format: ImageFormat | undefined
  /** For the first image. */
  readonly readOnly: boolean
  /** The backing file that is opened for writing: 1 for the first image's. Undefined: none is. */
  readonly writableLayer?: number | undefined
  /** Identities of images that may not be in the chain, such as its future overlay. */
  readonly above?: readonly string[] | undefined
  /** Probe the format of a backing file if the image does not state it. */
  readonly probeBackingFormat: boolean
  /** Bytes. */
  readonly cacheSize: number | undefined
  readonly discardNoUnref: boolean
  /** Open this snapshot of the first image, read-only. */
  readonly snapshot: string | undefined
  readonly overlapCheck: Qcow2Options["overlapCheck"]
  readonly decompressor: Decompressor | undefined
  /** For every encrypted image of the chain. */
  readonly passphrase: PassphraseOption | undefined
  readonly cryptography: Cryptography | undefined
  /** Only the sizes of the images are needed: encrypted ones open without a passphrase. Default false. */
  readonly isLocked?: boolean | undefined
  readonly openFile: (path: string, options: { readonly readOnly: boolean }) => ChainFile
  /** The path of the first image's external data file, whatever the image names. */
  readonly dataFile: string | undefined
  /** Returns the path for a name in an image. Whatever it throws stops the opening. */
  readonly resolveBacking: (reference: BackingReference) => string
}

/** Maximum of images in a chain, including the first one. */
export const MOST_IMAGES = 64

/** Opens the image at `path`, and the files that it names. @throws BackingError; then nothing stays open, and nothing was written */
export function openChain(path: string, options: ChainOptions): RawBacking | Qcow2Image {
  return openLink(path, { options, format: options.format, readOnly: options.readOnly, above: [] })
}

interface Link {
  readonly options: ChainOptions
  readonly format: ImageFormat | undefined
  readonly readOnly: boolean
  /** Identities of the images above this one. */
  readonly above: readonly string[]
}

function openLink(path: string, link: Link): RawBacking | Qcow2Image {
  const { options, readOnly, above } = link
  const file = options.openFile(path, { readOnly })
  try {
    // Comes before `claim`, which would report an image in its own chain as open elsewhere.
    if (above.includes(file.identity) || options.above?.includes(file.identity) === true) {
      throw new BackingError("invalid-format", "it is in its own chain of backing files", { path })
    }
    if (above.length >= MOST_IMAGES) {
      throw new BackingError("unsupported", `the chain of backing files is longer than ${MOST_IMAGES} images`, { path })
    }
    file.claim()
    const format = link.format ?? probeFormat(file)
    if (options.dataFile !== undefined && above.length === 0) refuseNeedlessDataFile(file, format)
    const snapshot = above.length === 0 ? options.snapshot : undefined
    if (snapshot !== undefined && format !== "qcow2") {
      throw new BackingError("invalid-argument", `a ${format} image has no snapshots`, { path })
    }
    if (format === "raw") return new RawBacking(file, { guardSignatures: link.format === undefined })
    if (format === "luks") return new RawBacking(options.isLocked === true ? lockedFile(file) : unlock(file, options))
    const chain = [...above, file.identity]
    return openQcow2Image(file, {
      readOnly,
      discardNoUnref: options.discardNoUnref,
      openBacking: (reference) => openBacking(reference, { ...link, above: chain }),
      openDataFile: (reference) => openDataFile(reference, { ...link, above: chain }),
      ...(options.isLocked === true ? { cipher: { sectors: LOCKED_CIPHER, numberedBy: "host" } as const } : {}),
      ...(options.passphrase === undefined ? {} : { passphrase: options.passphrase }),
      ...(options.cryptography === undefined ? {} : { cryptography: options.cryptography }),
      ...(options.decompressor === undefined ? {} : { decompressor: options.decompressor }),
      ...(options.cacheSize === undefined ? {} : { cacheSize: options.cacheSize }),
      ...(options.overlapCheck === undefined ? {} : { overlapCheck: options.overlapCheck }),
      ...(snapshot === undefined ? {} : { snapshot }),
    })
  } catch (error) {
    file.close()
    throw error
  }
}

function unlock(file: ImageFile, { passphrase, cryptography }: ChainOptions): ImageFile {
  const answer = askPassphrase(passphrase, { path: file.path, encryption: "luks" })
  checkAnswer("openImage", answer, "what the option passphrase returned")
  return unlockFile(file, { passphrase: answer, cryptography })
}

function openBacking(reference: BackingReference, link: Link): RawBacking | Qcow2Image {
  const format = backingFormat(reference, link.options)
  const path = link.options.resolveBacking(reference)
  checkValue("openImage", "what resolveBacking returns", path, "string")
  try {
    return openLink(path, { ...link, format, readOnly: link.above.length !== link.options.writableLayer })
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    throw new LinkError(error, { path: reference.imagePath, what: "file" })
  }
}

/** @throws BackingError `invalid-argument` for an image without an external data file (QC-DF-05) */
function refuseNeedlessDataFile(file: ImageFile, format: ImageFormat): void {
  if (format === "qcow2" && headerGeometry(readHeader(file)).hasDataFile) return
  throw new BackingError("invalid-argument", "an external data file was given, but the image has none", { path: file.path })
}

function openDataFile(reference: BackingReference, { options, above, readOnly }: Link): ImageFile {
  const given = above.length === 1 ? options.dataFile : undefined
  const path = given ?? options.resolveBacking(reference)
  checkValue("openImage", "what resolveBacking returns", path, "string")
  try {
    const file = options.openFile(path, { readOnly })
    try {
      if (above.includes(file.identity)) throw new BackingError("invalid-format", "it is itself an image of this chain", { path })
      file.claim()
      return file
    } catch (error) {
      file.close()
      throw error
    }
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    const { imagePath } = reference
    throw new BackingError(error.code, `cannot open its external data file: ${error.message}`, { path: imagePath, cause: error })
  }
}

/**
 * The format that an image states for its backing file; undefined if it is to be probed.
 * @throws BackingError `unsupported` when that is not allowed, or the format is not ours
 */
export function backingFormat(
  reference: BackingReference, options: { readonly probeBackingFormat: boolean },
): ImageFormat | undefined {
  const { format, name, imagePath } = reference
  if (format === "raw" || format === "qcow2" || format === "luks") return format
  if (format !== undefined) {
    const message = `its backing file "${name}" has the format "${format}"; only raw, qcow2 and luks can be read`
    throw new BackingError("unsupported", message, { path: imagePath })
  }
  if (options.probeBackingFormat) return undefined
  // The command does not contain the name, which may have characters that a shell obeys.
  const remedy = 'state it with "qemu-img rebase -u -b NAME -F raw|qcow2", or allow guessing'
  const message = `it does not say which format its backing file "${name}" has, and guessing is not safe; ${remedy}`
  throw new BackingError("unsupported", message, { path: imagePath })
}
