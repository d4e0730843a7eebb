/** Replaces the backing file of an open image, in the header and for reads. */
import { BackingError } from "../../backing.ts"
import { encodeText } from "../../bytes/fields.ts"
import { EXTENSION_TYPE, LIMIT } from "../format/spec.ts"
import { isDataFileRaw, type Qcow2Header, serialiseHeader } from "../format/header.ts"
import type { Qcow2Image } from "../image.ts"
import type { BackingDisk } from "../reader.ts"

/** A backing file as an image stores it. */
export interface BackingName {
  /** Relative to the image's own directory, or absolute. */
  readonly name: string
  readonly format: string
}

/**
 * Returns the header with this backing file, or without one.
 * @throws BackingError `invalid-argument` for a name that the format does not allow, and for an image that cannot have a backing file
 */
export function headerWithBacking(header: Qcow2Header, backing: BackingName | undefined, path: string): Qcow2Header {
  const others = header.extensions.filter(({ type }) => type !== EXTENSION_TYPE.BACKING_FORMAT)
  if (backing === undefined) return { ...header, backingFile: undefined, extensions: others }
  const backingFile = encodeText(backing.name)
  const refuse = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
  if (isDataFileRaw(header)) throw refuse("a raw data file holds all that the guest sees, so the image cannot have a backing file")
  if (backingFile.length === 0) throw refuse("the name of the backing file is empty")
  if (backingFile.length > LIMIT.BACKING_FILE_NAME_BYTES) {
    throw refuse(`the name of the backing file is longer than ${LIMIT.BACKING_FILE_NAME_BYTES} bytes`)
  }
  const format = { type: EXTENSION_TYPE.BACKING_FORMAT, data: encodeText(backing.format) }
  // The format comes first, as in QEMU (QC-EXT-09).
  return { ...header, backingFile, extensions: [format, ...others] }
}

/** The next backing file of an image. */
export interface NextBacking {
  readonly reference: BackingName | undefined
  readonly disk: BackingDisk | undefined
}

/**
 * Stores all data of the image, and then replaces its backing file, on disk and in memory. Returns the old disk, which the caller closes.
 * The image must read the same over both: call `prepareBacking`, and copy the differences, before.
 * @throws BackingError; then the header names the old or the new one, the open image still has the old one, and the call can be repeated
 */
export function changeBacking(image: Qcow2Image, { reference, disk }: NextBacking): BackingDisk | undefined {
  return image.change(({ header, backing, metadataWriter }) => {
    const next = headerWithBacking(header.header, reference, image.path)
    metadataWriter.store()
    header.rewrite(next)
    const old = backing.disk
    backing.disk = disk
    backing.next = undefined
    return old
  })
}

/**
 * Announces `next`: from now on, zeroed clusters of the image also hide the content of `next`, which may be longer.
 * @throws BackingError `no-space`, `invalid-argument` if the header cannot name it: now, and not after hours of copying
 */
export function prepareBacking(image: Qcow2Image, { reference, disk }: NextBacking): void {
  image.change(({ header, backing }) => {
    serialiseHeader(headerWithBacking(header.header, reference, image.path), image.path)
    backing.next = disk
  })
}

/** Ends `prepareBacking`, after the change or without it. */
export function forgetNextBacking(image: Qcow2Image): void {
  image.inspect(({ backing }) => void (backing.next = undefined))
}
