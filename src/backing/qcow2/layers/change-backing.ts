/** What is behind an open image is replaced: the header names another backing file, or none, and reads go there from then on. */
import { BackingError } from "../../backing.ts"
import { encodeText } from "../format/bytes.ts"
import { EXTENSION_TYPE, LIMIT } from "../format/spec.ts"
import { isDataFileRaw, type Qcow2Header, serialiseHeader } from "../format/header.ts"
import type { Qcow2Image } from "../image.ts"
import type { BackingDisk } from "../reader.ts"

/** A backing file as it is to stand in an image. */
export interface BackingName {
  /** Relative to the image's own directory, or absolute. */
  readonly name: string
  readonly format: string
}

/**
 * The header that names this backing file, or none.
 * @throws BackingError `invalid-argument` for a name that the format does not allow, and for an image that can have none
 */
export function headerWithBacking(header: Qcow2Header, backing: BackingName | undefined, path: string): Qcow2Header {
  const others = header.extensions.filter(({ type }) => type !== EXTENSION_TYPE.BACKING_FORMAT)
  if (backing === undefined) return { ...header, backingFile: undefined, extensions: others }
  const backingFile = encodeText(backing.name)
  const refuse = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
  if (isDataFileRaw(header)) throw refuse("a raw data file does not go with a backing file: it holds all that the guest sees")
  if (backingFile.length === 0) throw refuse("the name of the backing file is empty")
  if (backingFile.length > LIMIT.BACKING_FILE_NAME_BYTES) {
    throw refuse(`the name of the backing file is longer than ${LIMIT.BACKING_FILE_NAME_BYTES} bytes`)
  }
  const format = { type: EXTENSION_TYPE.BACKING_FORMAT, data: encodeText(backing.format) }
  // First, as QEMU has it (QC-EXT-09).
  return { ...header, backingFile, extensions: [format, ...others] }
}

/** What is going to be behind the image. */
export interface NextBacking {
  readonly reference: BackingName | undefined
  readonly disk: BackingDisk | undefined
}

/**
 * Puts `next` behind the image, on disk and in memory, after all that the image holds by now is on stable storage. Returns the disk that
 * was there, which is the caller's to close. The image must read the same over both: `prepareBacking` and a copy of what differs come
 * first.
 * @throws BackingError then the file names the old one or the new one, the open image still has the old one, and the call can be made again
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
 * Announces `next`: from now on, what is made zero in the image is kept from showing it as well, for it may be longer.
 * @throws BackingError `no-space`, `invalid-argument` when the header cannot name it: now, and not after hours of copying
 */
export function prepareBacking(image: Qcow2Image, { reference, disk }: NextBacking): void {
  image.change(({ header, backing }) => {
    serialiseHeader(headerWithBacking(header.header, reference, image.path), image.path)
    backing.next = disk
  })
}

/** Nothing takes the place of the backing image, or it has done so. */
export function forgetNextBacking(image: Qcow2Image): void {
  image.inspect(({ backing }) => void (backing.next = undefined))
}
