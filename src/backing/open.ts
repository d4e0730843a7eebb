/**
 * Opens disk images by path: finds out the format, opens the chain of backing files. The only place that turns a name found in an image into a
 * path of the host, so that an embedder can forbid or redirect it.
 */
import { dirname, resolve } from "node:path"
import { BackingError } from "./backing.ts"
import type { ImageFile } from "./image-file.ts"
import { LockedFile } from "./host/image-lock.ts"
import { openQcow2 } from "./host/open-qcow2.ts"
import { isQcow2 } from "./qcow2/format/header.ts"
import type { Qcow2Image } from "./qcow2/image.ts"
import type { BackingReference } from "./qcow2/open.ts"
import { RawBacking } from "./raw.ts"
import { FOREIGN_SIGNATURES } from "./signatures.ts"

export type ImageFormat = "raw" | "qcow2"

export interface OpenImageOptions {
  /**
   * Default: found out from the file's first bytes. A raw disk whose format was found out that way refuses writes that would make it look like
   * another format on the next opening; state "raw" to allow them.
   */
  readonly format?: ImageFormat
  /** Nothing is written to the image. Backing files are never written. Default false. */
  readonly readOnly?: boolean
  /**
   * Find out the format of a backing file from its content where the image does not state it. A guest that ever wrote to that backing file as a raw
   * disk may have put a header there that names any file of the host. Default false: refused.
   */
  readonly probeBackingFormat?: boolean
  /**
   * The path for a backing file, in place of the default: relative to the directory of the image that names it. Throw to forbid it. The name comes
   * from the image, so what it may reach is to be judged here when the image is not trusted.
   */
  readonly resolveBacking?: (reference: BackingReference) => string
  /** Open even if somebody else has the image open, and take no locks. Default false: refused. */
  readonly ignoreLocks?: boolean
  /**
   * Whether a read-only opening locks its files, so that nobody can write to them until it is closed. A lock costs a process: 3 ms, or
   * 50 ms where this one fills 1 GiB. False spares that where many images are opened; an image that is open for writing is still refused.
   * Openings for writing always lock, backing files included. Default true.
   */
  readonly lockReadOnly?: boolean
  /** Bytes of memory for the cached metadata of each qcow2 image. Default 32 MiB. */
  readonly cacheSize?: number
}

/** Images in a chain, the one that is opened included. */
const MOST_IMAGES = 64

/** Enough of a file's start for every signature. */
const PROBE_BYTES = 64

/**
 * Opens a raw or qcow2 image with all its backing files. Throws `BackingError`: `not-found`, `permission`, `busy` when somebody else has it open,
 * `invalid-format`, `unsupported`, `corrupt`. Nothing is written before everything has been found in order; then a dirty image that is opened for
 * writing is repaired, and feature bits that are not kept up are cleared.
 */
export function openImage(path: string, options: OpenImageOptions = {}): RawBacking | Qcow2Image {
  const readOnly = options.readOnly ?? false
  // Whoever writes to a backing file destroys what is written over it.
  const lockReadOnly = !readOnly || options.lockReadOnly !== false
  return openInChain(path, { options, format: options.format, readOnly, lockReadOnly, above: [] })
}

interface ChainPlace {
  readonly options: OpenImageOptions
  /** Undefined: to be found out. */
  readonly format: ImageFormat | undefined
  readonly readOnly: boolean
  readonly lockReadOnly: boolean
  /** Identities of the images that lead here. */
  readonly above: readonly string[]
}

function openInChain(path: string, place: ChainPlace): RawBacking | Qcow2Image {
  const { options, readOnly, above } = place
  const file = new LockedFile(path, { readOnly })
  try {
    // Before the claim: an image in its own chain is not somebody else.
    if (above.includes(file.identity)) throw new BackingError("invalid-format", "it is in its own chain of backing files", { path })
    if (above.length >= MOST_IMAGES) throw new BackingError("unsupported", `the chain of backing files is longer than ${MOST_IMAGES} images`, { path })
    file.claim({ ignoreLocks: options.ignoreLocks ?? false, lockReadOnly: place.lockReadOnly })
    const format = place.format ?? probeFormat(file)
    if (format === "raw") return new RawBacking(file, { guardSignatures: place.format === undefined })
    const chain = [...above, file.identity]
    return openQcow2(file, {
      readOnly,
      openBacking: (reference) => openBackingFile(reference, { ...place, above: chain }),
      ...(options.cacheSize === undefined ? {} : { cacheSize: options.cacheSize }),
    })
  } catch (error) {
    file.close()
    throw error
  }
}

function openBackingFile(reference: BackingReference, place: ChainPlace): RawBacking | Qcow2Image {
  const { options } = place
  const { name, imagePath } = reference
  const format = backingFormat(reference, options)
  const path = options.resolveBacking === undefined ? backingPath(imagePath, name) : options.resolveBacking(reference)
  try {
    return openInChain(path, { ...place, format, readOnly: true })
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    throw new BackingError(error.code, `cannot open its backing file: ${error.message}`, { path: imagePath, cause: error })
  }
}

/**
 * The path that a backing file name means: relative to the directory of the image that names it (QC-BF-07). Names like "json:{...}" or "nbd://host" are
 * file names as well, no instructions to connect somewhere (QC-BF-08).
 */
export function backingPath(imagePath: string, name: string): string {
  return resolve(dirname(imagePath), name)
}

function backingFormat(reference: BackingReference, options: OpenImageOptions): ImageFormat | undefined {
  const { format, name, imagePath } = reference
  if (format === "raw" || format === "qcow2") return format
  if (format !== undefined) {
    throw new BackingError("unsupported", `its backing file "${name}" has the format "${format}"; only raw and qcow2 can be read`, { path: imagePath })
  }
  if (options.probeBackingFormat === true) return undefined
  throw new BackingError(
    "unsupported",
    `it does not say which format its backing file "${name}" has, and guessing is not safe; state it with "qemu-img rebase -u -b ${name} -F raw|qcow2", or allow guessing`,
    { path: imagePath },
  )
}

/** The format that the first bytes announce. Throws `unsupported` for one that is neither raw nor qcow2. */
export function probeFormat(file: ImageFile): ImageFormat {
  const start = new Uint8Array(PROBE_BYTES)
  const length = file.read(start, 0)
  if (isQcow2(start.subarray(0, length))) return "qcow2"
  const text = String.fromCharCode(...start.subarray(0, length))
  const foreign = FOREIGN_SIGNATURES.find(([signature]) => text.startsWith(signature))
  if (foreign === undefined) return "raw"
  throw new BackingError(
    "unsupported",
    `it looks like a ${foreign[1]} image; convert it with qemu-img, or state the format "raw" if its content is the disk itself`,
    { path: file.path, offset: 0 },
  )
}
