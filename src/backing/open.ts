/**
 * openImage: opens disk images by path, on a host with Node. `resolveBacking` lets an embedder forbid or redirect names found in
 * images.
 */
import type { Disposing } from "../disposing.ts"
import { checkCount, checkOptions, checkValue, type Rules } from "../options.ts"
import type { VirtioBacking } from "./backing.ts"
import { backingPath } from "./host/backing-path.ts"
import { LockedFile } from "./host/image-lock.ts"
import { nodeDecompressor } from "./host/node-decompressor.ts"
import { nodeCryptography } from "./host/node-cryptography.ts"
import { type ChainOptions, openChain } from "./image-chain.ts"
import { checkPassphrase, type PassphraseOption } from "./luks/passphrase.ts"
import type { Qcow2Image } from "./qcow2/image.ts"
import type { BackingReference } from "./qcow2/open.ts"
import type { RawBacking } from "./raw.ts"
import type { ImageFormat } from "./signatures.ts"
import { type DetectZeroes, detectZeroes } from "./zeroes/detect-zeroes.ts"

export type { ImageFormat } from "./signatures.ts"

/** Options of `openImage`. */
export interface OpenImageOptions {
  /**
   * Default: probed from the file's first bytes. A raw disk whose format was probed refuses writes that would make it
   * look like another format on the next opening; state "raw" to allow them.
   */
  readonly format?: ImageFormat
  /** Nothing is written to the image. Backing files are never written. Default false. */
  readonly readOnly?: boolean
  /**
   * Probe the format of a backing file if the image does not state it. Unsafe if a guest ever wrote to that backing file as a raw disk: it
   * may have put a header there that names any file of the host. Default false: refused.
   */
  readonly probeBackingFormat?: boolean
  /**
   * The path of the image's external data file, in place of the one that the image names. An image without an external data file is
   * refused.
   */
  readonly dataFile?: string
  /**
   * Returns the path of a backing file or an external data file (`isDataFile`); throw to forbid it. The name comes from the image: check it
   * here if the image is not trusted. Default: relative to the directory of the image that names it, and for a data file, which is written,
   * inside that directory.
   */
  readonly resolveBacking?: (reference: BackingReference) => string
  /** Open even if somebody else has the image open, and take no locks. Default false: refused. */
  readonly ignoreLocks?: boolean
  /**
   * Whether a read-only opening locks its files, so that nobody can write to them until it is closed. Openings for writing always do, and
   * lock backing files too. Default false: an image that is open for writing is refused all the same. But somebody may open it for writing
   * later; then reads mix old and new data, and the image is not harmed. A lock takes a process: some 5 ms, and 60 ms or more if this
   * process uses 1 GiB. Without a lock, reading the host's list of locks takes 0.2 ms, or up to 20 if locks have changed. (All measured.)
   */
  readonly lockReadOnly?: boolean
  /** Bytes of memory for the cached metadata of each qcow2 image. Default 32 MiB. */
  readonly cacheSize?: number
  /** Of a qcow2 image of version 3: discarded clusters keep their places in the file, so that it does not fragment. Default false. */
  readonly discardNoUnref?: boolean
  /**
   * Opens the encrypted images of the chain: one passphrase, or the bytes of a key file, for all of them; or a function that returns the
   * passphrase of each. Default: encrypted images are refused.
   */
  readonly passphrase?: PassphraseOption
  /** Opens an internal snapshot of a qcow2 image, by its ID or name, read-only. Default: the present disk. */
  readonly snapshot?: string
  /**
   * Which metadata of a qcow2 image is protected from writes that damaged tables misdirect. "cached": all but the L2 tables of snapshots.
   * "all": these too, for images that are not trusted; then opening reads the snapshots' L1 tables. Default "cached".
   */
  readonly overlapCheck?: "cached" | "all"
}

/** Options of `openImage` for an image whose zeroes are detected. */
export interface DetectingOptions extends OpenImageOptions {
  /** How to treat zeroes that the guest writes as data: see `detectZeroes`. Default "off": they are written. */
  readonly detectZeroes: DetectZeroes
}

const OPEN_IMAGE_RULES: Rules<OpenImageOptions & Partial<DetectingOptions>> = {
  format: ["raw", "qcow2", "luks"], readOnly: "boolean?", probeBackingFormat: "boolean?", dataFile: "string?",
  resolveBacking: "function?", ignoreLocks: "boolean?",
  lockReadOnly: "boolean?", cacheSize: "number?", discardNoUnref: "boolean?", passphrase: "any?", snapshot: "string?",
  overlapCheck: ["cached", "all"], detectZeroes: ["off", "on", "unmap"],
}

/**
 * Opens a raw, qcow2 or LUKS image with all its backing files. Nothing is written before the whole chain has been checked. After that, an
 * image that is opened for writing is repaired if it is dirty, and loses the autoclear feature bits that we do not maintain.
 * @throws BackingError `not-found`, `permission` (for a wrong passphrase too), `busy` when somebody else has it open, `invalid-format`,
 * `unsupported`, `corrupt`
 * @throws TypeError for a wrong argument: an option that does not exist, or a value of the wrong type
 */
export function openImage(path: string, options: DetectingOptions): VirtioBacking & Disposing
export function openImage(path: string, options?: OpenImageOptions): RawBacking | Qcow2Image
export function openImage(path: string, options: OpenImageOptions & Partial<DetectingOptions> = {}): VirtioBacking & Disposing {
  const image = openLayers(path, options)
  return detectZeroes(image, options.detectZeroes ?? "off")
}

/** Further options for operations between the images of a chain. */
export interface LayerOptions extends Pick<ChainOptions, "writableLayer" | "above" | "isLocked"> {}

/** `openImage`, for operations between the images of a chain. */
export function openLayers(path: string, options: OpenImageOptions, layers: LayerOptions = {}): RawBacking | Qcow2Image {
  checkValue("openImage", "path", path, "string")
  checkOptions("openImage", options, OPEN_IMAGE_RULES)
  checkCount("openImage", "cacheSize", options.cacheSize, 0)
  checkPassphrase("openImage", options.passphrase)
  const { format, snapshot, readOnly = snapshot !== undefined, cacheSize, ignoreLocks = false } = options
  // A write to a backing file would destroy its overlays.
  const lockReadOnly = !readOnly || options.lockReadOnly === true
  return openChain(path, {
    ...layers,
    format,
    readOnly,
    cacheSize,
    discardNoUnref: options.discardNoUnref ?? false,
    probeBackingFormat: options.probeBackingFormat ?? false,
    decompressor: nodeDecompressor,
    passphrase: options.passphrase,
    cryptography: nodeCryptography,
    openFile: (name, opening) => new LockedFile(name, { ...opening, ignoreLocks, lockReadOnly }),
    dataFile: options.dataFile,
    snapshot,
    overlapCheck: options.overlapCheck,
    resolveBacking: options.resolveBacking ?? backingPath,
  })
}
