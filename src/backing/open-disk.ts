/**
 * Opens a disk over any source, with its backing images: synchronous files, asynchronous files and disks, in any mixture. Nothing here
 * needs Node: the platform's parts are passed in.
 */
import { type AsyncDisposing, closing } from "../disposing.ts"
import { checkCount, checkOptions, type Rules } from "../options.ts"
import { type StopSignal, throwIfStopped } from "../turns.ts"
import { type AsyncImageFile, NotLoaded } from "./async-image-file.ts"
import { BackingError, checkBacking, type VirtioBacking } from "./backing.ts"
import { backingFormat, MOST_IMAGES } from "./image-chain.ts"
import type { ImageFile } from "./image-file.ts"
import { LinkError } from "./link-error.ts"
import { checkPassphrase, type LatePassphraseOption } from "./luks/passphrase.ts"
import { type BackingReference, openQcow2Image } from "./qcow2/open.ts"
import type { BackingDisk } from "./qcow2/reader.ts"
import type { Qcow2Image } from "./qcow2/image.ts"
import { RawBacking } from "./raw.ts"
import { ReadOnlyFile } from "./read-only-file.ts"
import { type ImageFormat, probeFormat } from "./signatures.ts"
import type { MapExtent } from "./qcow2/map-extents.ts"
import type { BitmapActions } from "./qcow2/bitmaps/bitmaps.ts"
import type { SnapshotActions } from "./qcow2/snapshots/snapshots.ts"
import { AwaitedDisk } from "./paging/awaited-disk.ts"
import { checkSource, type DiskSource, isBacking, isImageFile } from "./paging/examine-source.ts"
import { answersAtOnce, type LateFile } from "./paging/loading-disk.ts"
import { BackingReader, BackingSource } from "./paging/backing-source.ts"
import { PagedFile } from "./paging/paged-file.ts"
import { type LateUnlockOptions, unlockFileLater, unlockImageLater } from "./paging/late-unlock.ts"
import type { Platform } from "./paging/platform.ts"
import { type DetectZeroes, detectZeroes } from "./zeroes/detect-zeroes.ts"
import { untilLoaded, type Waits } from "./paging/until-loaded.ts"
import { AnsweredFile } from "./sources/answered-file.ts"
import type { PlatformAbortSignal } from "./sources/http/types.ts"

export type { DiskSource } from "./paging/examine-source.ts"

/** A disk that can say where its bytes are stored. */
export interface MappedDisk extends VirtioBacking {
  /** Where the bytes of a range are stored, as extents without gaps. Await it. Left out by disks that are not images. */
  readonly map?: (offset: number, length: number) => Iterable<MapExtent> | Promise<Iterable<MapExtent>>
  /** The internal snapshots and the persistent dirty bitmaps of a qcow2 image. Await what they return. */
  readonly snapshots?: SnapshotActions
  readonly bitmaps?: BitmapActions
}

/** What `openDisk` returns; `await using` closes it. */
export type OpenedDisk = MappedDisk & AsyncDisposing

/** Options of `openDisk`. */
export interface OpenDiskOptions {
  /**
   * Default: probed from the file's first bytes. A raw disk whose format was probed refuses writes that would make it look
   * like another format on the next opening; state "raw" to allow them.
   */
  readonly format?: ImageFormat
  /** True: nothing is written to the source. False: a source that is read-only is refused. Default: as the source is. */
  readonly readOnly?: boolean
  /**
   * Returns the source for a backing image that an image names, or for its external data file (`isDataFile`): a file, not a disk, which is
   * writable if the image is. The name comes from the image: check it here if the image is not trusted. Default: an image that needs one is
   * refused.
   */
  readonly backing?: (reference: BackingReference) => DiskSource | Promise<DiskSource>
  /**
   * Probe the format of a backing image if the image does not state it. Unsafe if a guest ever wrote to that backing image as a raw disk:
   * it may have put a header there that names any file. Default false: refused.
   */
  readonly probeBackingFormat?: boolean
  /**
   * Opens the encrypted images of the chain: one passphrase, or the bytes of a key file, for all of them; or a function that returns the
   * passphrase of each, or a promise for it. Default: encrypted images are refused.
   */
  readonly passphrase?: LatePassphraseOption
  /** Opens an internal snapshot of a qcow2 image, by its ID or name, read-only. Default: the present disk. */
  readonly snapshot?: string
  /** Bytes of memory for the cached metadata of each qcow2 image. Default 32 MiB. */
  readonly cacheSize?: number
  /** Of a qcow2 image of version 3: discarded clusters keep their places in the file, so that it does not fragment. Default false. */
  readonly discardNoUnref?: boolean
  /** Bytes of memory for the pages of each file that answers later. Default 32 MiB. */
  readonly pageCacheSize?: number
  /** How to treat zeroes that are written as data: see `detectZeroes`. Default "off": they are written. */
  readonly detectZeroes?: DetectZeroes
  /** Stops the opening between two steps: it rejects with the signal's reason. Deriving a key, which may take minutes, stops at once. */
  readonly signal?: PlatformAbortSignal
}

const OPEN_DISK_RULES: Rules<OpenDiskOptions> = {
  format: ["raw", "qcow2", "luks"], readOnly: "boolean?", backing: "function?", probeBackingFormat: "boolean?", cacheSize: "number?",
  discardNoUnref: "boolean?", passphrase: "any?", snapshot: "string?", pageCacheSize: "number?", detectZeroes: ["off", "on", "unmap"],
  signal: "any?",
}

/**
 * `openDisk` with the platform's parts. The disk owns `source` and the sources that `backing` returned. If opening fails, `source` stays
 * the caller's, and the others have been closed.
 */
export async function openDiskWith(
  platform: Platform, source: DiskSource, options: OpenDiskOptions = {},
): Promise<OpenedDisk> {
  checkOptions("openDisk", options, OPEN_DISK_RULES)
  checkCount("openDisk", "cacheSize", options.cacheSize, 0)
  checkCount("openDisk", "pageCacheSize", options.pageCacheSize, 0)
  checkPassphrase("openDisk", options.passphrase)
  checkSource("source", source)
  const opening = new DiskOpening(options, platform)
  try {
    return closing(detectZeroes(await opening.open(source), options.detectZeroes ?? "off"))
  } catch (error) {
    await opening.abandon()
    throw error
  }
}

/** Without the platform's types a signal is just an object. */
export function stopSignal({ signal }: OpenDiskOptions): StopSignal | undefined {
  return signal as StopSignal | undefined
}

/** One image of the chain, before it is opened. */
interface Link {
  readonly format: ImageFormat | undefined
  readonly readOnly: boolean | undefined
  /** The sources of the images above this one. */
  readonly above: readonly DiskSource[]
}

class DiskOpening {
  readonly #options: OpenDiskOptions
  readonly #platform: Platform
  readonly #unlocking: LateUnlockOptions
  readonly #waits: Waits
  /** The files to close with the disk. */
  readonly #files: LateFile[] = []
  #isLate = false
  /** Sources that `backing` has returned, to close if the opening fails. */
  readonly #given: DiskSource[] = []

  constructor(options: OpenDiskOptions, platform: Platform) {
    this.#options = options
    this.#platform = platform
    const signal = stopSignal(options)
    this.#waits = { before: () => void throwIfStopped(signal) }
    this.#unlocking = { passphrase: options.passphrase, cryptography: platform.cryptography, waits: this.#waits }
  }

  async open(source: DiskSource): Promise<MappedDisk> {
    // A disk as it is, and a raw image, are opened without a step for which `#waits` is asked.
    throwIfStopped(stopSignal(this.#options))
    const { format, readOnly } = this.#options
    if (readOnly === false && source.readOnly) {
      const path = isBacking(source) ? undefined : source.path
      throw new BackingError("read-only", "the source is read-only, so it cannot be opened for writing; leave out readOnly", { path })
    }
    if (isBacking(source)) return this.#asItIs(source)
    if (!isImageFile(source) && format === "raw" && source.disk !== undefined) {
      const disk = await source.disk({ readOnly: readOnly ?? source.readOnly })
      checkBacking("openDisk", disk)
      return disk
    }
    const disk = await this.#openImage(source, { format, readOnly, above: [] })
    return this.#isLate ? new AwaitedDisk(disk, this.#files) : disk
  }

  /** After a failed opening: closes the sources that `backing` returned. Errors of closing are not reported. */
  async abandon(): Promise<void> {
    for (const source of this.#given) {
      try {
        await source.close()
      } catch {
        // Any error of a caller's source is ignored here: the others must be closed too, and the first failure must be reported.
      }
    }
  }

  #asItIs(disk: VirtioBacking): MappedDisk {
    const { format, readOnly } = this.#options
    const refuse = (message: string): BackingError => new BackingError("invalid-argument", `openDisk: ${message}`)
    if (format === "qcow2") throw refuse("the source is a disk, not the file of an image; leave out the format")
    if (readOnly === true && !disk.readOnly) throw refuse("the source is a disk that can be written; give the device the option readOnly")
    return disk
  }

  async #openImage(source: AsyncImageFile | ImageFile, link: Link): Promise<RawBacking | Qcow2Image> {
    const file = await this.#fileOf(source, link.readOnly)
    const format = link.format ?? (await untilLoaded(() => probeFormat(file), this.#waits))
    if (format === "raw") return new RawBacking(file, { guardSignatures: link.format === undefined })
    if (format === "luks") return new RawBacking(await unlockFileLater(file, this.#unlocking))
    return await this.#openQcow2(file, { ...link, above: [...link.above, source] })
  }

  async #openQcow2(file: ImageFile, link: Link): Promise<Qcow2Image> {
    const { backing, cacheSize, discardNoUnref = false } = this.#options
    const snapshot = link.above.length === 1 ? this.#options.snapshot : undefined
    const cipher = await unlockImageLater(file, this.#unlocking)
    let below: BackingDisk | undefined
    let data: ImageFile | undefined
    const openDataFile = (reference: BackingReference): ImageFile => {
      if (data !== undefined) return data
      throw new NotLoaded(async () => {
        data = await this.#openDataFile(reference, file, link)
      })
    }
    const openBacking = (reference: BackingReference): BackingDisk => {
      if (below !== undefined) return below
      throw new NotLoaded(async () => {
        below = await this.#openBacking(reference, link)
      })
    }
    const open = (): Qcow2Image => openQcow2Image(file, {
      readOnly: file.readOnly || snapshot !== undefined,
      ...(snapshot === undefined ? {} : { snapshot }),
      ...(backing === undefined ? {} : { openBacking, openDataFile }),
      ...this.#platform,
      cipher,
      discardNoUnref,
      ...(cacheSize === undefined ? {} : { cacheSize }),
    })
    return await untilLoaded(open, this.#waits)
  }

  async #openBacking(reference: BackingReference, { above }: Link): Promise<BackingDisk> {
    const { backing, probeBackingFormat = false } = this.#options
    const { imagePath: path } = reference
    const format = backingFormat(reference, { probeBackingFormat })
    if (above.length >= MOST_IMAGES) {
      throw new BackingError("unsupported", `the chain of backing images is longer than ${MOST_IMAGES} images`, { path })
    }
    const source = await backing?.(reference)
    checkSource("what the option backing returned", source)
    if (above.includes(source)) {
      throw new BackingError("invalid-format", `its backing image "${reference.name}" is in its own chain of backing images`, { path })
    }
    this.#given.push(source)
    try {
      if (isBacking(source)) return await this.#readDisk(source, reference.name)
      return await this.#openImage(source, { format, readOnly: true, above })
    } catch (error) {
      if (!(error instanceof BackingError)) throw error
      throw new LinkError(error, { path, what: "image" })
    }
  }

  /** Opens the external data file that `image` names, like the image. Its data must be stored before the image refers to it. */
  async #openDataFile(reference: BackingReference, image: ImageFile, { above }: Link): Promise<ImageFile> {
    const { imagePath: path } = reference
    const source = await this.#options.backing?.(reference)
    checkSource("what the option backing returned for the external data file", source)
    const isDisk = isBacking(source)
    if (isDisk) throw new BackingError("invalid-argument", "the option backing returned a disk for an external data file", { path })
    if (above.includes(source)) throw new BackingError("invalid-format", "its external data file is an image that names it", { path })
    this.#given.push(source)
    try {
      const isLate = image instanceof PagedFile && !image.readOnly
      // The order of writes to the two files can be kept if the data file is asynchronous like the image, or if both are synchronous.
      const file = await this.#fileOf(isLate && isImageFile(source) ? new AnsweredFile(source) : source, image.readOnly ? true : undefined)
      if (!(file instanceof PagedFile) || image.readOnly) return file
      if (!isLate) throw new BackingError("unsupported", "it answers later, and the image file at once", { path })
      image.refersTo(file)
      return file
    } catch (error) {
      if (!(error instanceof BackingError)) throw error
      throw new BackingError(error.code, `cannot open its external data file: ${error.message}`, { path, cause: error })
    }
  }

  async #readDisk(disk: VirtioBacking, name: string): Promise<BackingDisk> {
    if (disk.asynchronous === true) return new RawBacking(await this.#page(new BackingSource(disk, name), true))
    return new BackingReader(disk)
  }

  async #fileOf(source: AsyncImageFile | ImageFile, readOnly: boolean | undefined): Promise<ImageFile> {
    if (!isImageFile(source)) return await this.#page(source, readOnly)
    const file = readOnly === true && !source.readOnly ? new ReadOnlyFile(source) : source
    this.#files.push(answersAtOnce(file))
    return file
  }

  async #page(source: AsyncImageFile, readOnly: boolean | undefined): Promise<PagedFile> {
    const { pageCacheSize: cacheSize } = this.#options
    const file = await PagedFile.open(source, { readOnly: readOnly === true, ...(cacheSize !== undefined && { cacheSize }) })
    this.#isLate = true
    this.#files.push(file)
    return file
  }
}
