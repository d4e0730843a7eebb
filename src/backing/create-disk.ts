/** createDisk: makes a qcow2 image in a synchronous or asynchronous file, such as an overlay in a browser's storage. */
import { checkMembers, checkOptions, type Rules } from "../options.ts"
import type { AsyncImageFile } from "./async-image-file.ts"
import { BackingError } from "./backing.ts"
import type { ImageFile } from "./image-file.ts"
import { modeText } from "./luks/cipher-spec.ts"
import type { Cryptography } from "./luks/cryptography.ts"
import { FIRST_MATERIAL, type HeaderPlace, LUKS_HEADER_BYTES, type LuksHeader, materialBytes, parseLuksHeader } from "./luks/header.ts"
import { readLuksHeader } from "./luks/volume.ts"
import { MemoryFile } from "./memory-file.ts"
import { refuseUnwritable } from "./paging/examine-source.ts"
import { untilLoaded } from "./paging/until-loaded.ts"
import { luksArea } from "./qcow2/encryption.ts"
import { readHeader } from "./qcow2/format/parse-header.ts"
import { CREATE_QCOW2_RULES, createQcow2, type CreateQcow2Options } from "./qcow2/create.ts"

/** Options of `createDisk`: those of a new qcow2 image. */
export interface CreateDiskOptions extends CreateQcow2Options {
  /** Leaves a file that is not empty as it is. Default false: it is refused. */
  readonly onlyIfEmpty?: boolean
  /** Overwrites the content of the file. Works in a file of fixed size too, such as an NBD export. Default false. */
  readonly overwrite?: boolean
}

const CREATE_DISK_RULES: Rules<CreateDiskOptions> = { ...CREATE_QCOW2_RULES, onlyIfEmpty: "boolean?", overwrite: "boolean?" }

/** The members of the file that `createDisk` uses. */
const FILE_RULES: Rules<Pick<ImageFile | AsyncImageFile, "path" | "readOnly" | "size" | "read">> = {
  path: "string", readOnly: "boolean", size: "function", read: "function",
}

/** Bytes that are compared together. */
const PIECE = 1 << 20
/** A longer file counts as not empty without a search: the tables of an image of 16 TiB have this length. */
const LONGEST_REMAINDER = 1 << 26

/**
 * Writes a new qcow2 image into `file`, which stays open and the caller's. The header comes last: a creation that is interrupted leaves no
 * image, and can be repeated with the same options. (An encrypted one gets another key then.)
 * Resolves to whether an image was made.
 * @param cryptography what encryption needs of the platform. Default: what Node or a page has
 * @throws BackingError (as a rejection) `invalid-argument` for options that contradict each other; `exists` for a file that is not empty,
 * unless `overwrite` is set; `no-space` for a file that is too small and cannot grow; errors of the file
 * @throws TypeError (as a rejection) for wrong arguments
 */
export async function createDisk(
  file: AsyncImageFile | ImageFile, options: CreateDiskOptions, cryptography?: Cryptography,
): Promise<boolean> {
  checkMembers("createDisk", "the file", file, FILE_RULES, "AsyncImageFile")
  checkOptions("createDisk", options, CREATE_DISK_RULES)
  const { onlyIfEmpty = false, overwrite = false, ...qcow2 } = options
  const refusal = (code: "invalid-argument" | "read-only" | "exists", message: string): BackingError =>
    new BackingError(code, message, { path: file.path })
  if (onlyIfEmpty && overwrite) throw refusal("invalid-argument", "onlyIfEmpty and overwrite exclude each other")
  if (file.readOnly) throw refusal("read-only", "the file is open read-only, so no image can be made in it")
  refuseUnwritable(file)
  const image = await untilLoaded(() => {
    const draft = new Draft({ path: file.path })
    createQcow2(draft, qcow2, cryptography)
    return draft
  })
  if (!overwrite && !(await isRemainder(file, image))) {
    if (onlyIfEmpty) return false
    throw refusal("exists", "the file is not empty; choose another one, or set overwrite if what it holds may be lost")
  }
  await refuseTooSmall(file, image.size())
  const hasFixedSize = !(await isEmptied(file))
  if (hasFixedSize) await clear(file, image.size())
  for (const step of image.steps) if (!hasFixedSize || step.kind !== "truncate") await step.repeat(file)
  return true
}

/** Comes before any change of the file. @throws BackingError `no-space` (as a rejection) */
async function refuseTooSmall(file: AsyncImageFile | ImageFile, length: number): Promise<void> {
  // `largestSize` is known only after this.
  await file.size()
  const { path, largestSize = Number.POSITIVE_INFINITY } = file
  if (length <= largestSize) return
  throw new BackingError("no-space", `the image takes ${length} bytes, and the file can have ${largestSize} at most`, { path })
}

/** Cuts the file to 0 bytes. Resolves to false if its size cannot be changed. */
async function isEmptied(file: AsyncImageFile | ImageFile): Promise<boolean> {
  try {
    await file.truncate?.(0)
    return true
  } catch (error) {
    if (error instanceof BackingError && error.code === "unsupported") return false
    throw error
  }
}

/** The bytes that hold an image's signature. */
const SIGNATURE_BYTES = 512

/**
 * Zeroes the first `length` bytes of the file, because a new image relies on holes. The signature of an old image goes first, so that a
 * crash cannot leave a damaged image.
 */
async function clear(file: AsyncImageFile | ImageFile, length: number): Promise<void> {
  const size = await file.size()
  if (length > size) {
    throw new BackingError("no-space", `the image takes ${length} bytes, and the file has ${size} and cannot grow`, { path: file.path })
  }
  const zeroes = new Uint8Array(Math.min(PIECE, length))
  await file.write?.(zeroes.subarray(0, SIGNATURE_BYTES), 0)
  await file.sync?.()
  if ((await file.punchHole?.(0, length)) === true || (await file.zeroRange?.(0, length)) === true) return
  for (let at = 0; at < length; at += PIECE) await file.write?.(zeroes.subarray(0, Math.min(PIECE, length - at)), at)
}

/** One recorded change. */
interface Step {
  readonly kind: "write" | "truncate" | "sync"
  repeat(file: AsyncImageFile | ImageFile): void | Promise<void>
}

/** A file in memory that records its changes, in order, so that they can be repeated on an asynchronous file. */
class Draft extends MemoryFile {
  readonly steps: Step[] = []

  override writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    const bytes = buffer.slice(start, start + length)
    this.steps.push({ kind: "write", repeat: (file) => file.write?.(bytes, offset) })
    super.writeFrom(buffer, start, length, offset)
  }

  override truncate(size: number): void {
    this.steps.push({ kind: "truncate", repeat: (file) => file.truncate?.(size) })
    super.truncate(size)
  }

  override sync(): void {
    this.steps.push({ kind: "sync", repeat: (file) => file.sync?.() })
    super.sync()
  }
}

/**
 * Whether `file` is empty, or contains what an interrupted creation of `image` leaves: parts of the image, and zeroes, without its first
 * bytes. Keys are random, so a LUKS header of the same kind and its key material may differ.
 */
async function isRemainder(file: AsyncImageFile | ImageFile, image: MemoryFile): Promise<boolean> {
  const size = await file.size()
  if (size > Math.min(image.size(), LONGEST_REMAINDER)) return false
  const keys = await otherKeys(file, image)
  const isKey = (at: number): boolean => keys.some(({ start, end }) => start <= at && at < end)
  for (let at = 0; at < size; at += PIECE) {
    const found = new Uint8Array(Math.min(PIECE, size - at))
    const wanted = new Uint8Array(found.length)
    image.read(wanted, at)
    await file.read(found, at)
    if (at === 0 && found[0] !== 0) return false
    if (found.some((byte, index) => byte !== 0 && byte !== wanted[index] && !isKey(at + index))) return false
  }
  return true
}

/** The ranges in which a file with parts of `image` may have another LUKS header and other key material. */
async function otherKeys(
  file: AsyncImageFile | ImageFile, image: MemoryFile,
): Promise<readonly { readonly start: number; readonly end: number }[]> {
  const area = luksArea(image, readHeader(image))
  if (area === undefined) return []
  const { offset } = area
  const found = new Uint8Array(LUKS_HEADER_BYTES)
  await file.read(found, offset)
  const [theirs, ours] = [headerIn(found, { path: file.path, offset }), readLuksHeader(area)]
  if (theirs?.hash !== ours.hash || theirs.payloadOffset !== ours.payloadOffset) return []
  if (modeText(theirs.cipher) !== modeText(ours.cipher)) return []
  const material = offset + FIRST_MATERIAL
  return [{ start: offset, end: offset + LUKS_HEADER_BYTES }, { start: material, end: material + materialBytes(ours) }]
}

function headerIn(bytes: Uint8Array, place: HeaderPlace): LuksHeader | undefined {
  try {
    return parseLuksHeader(bytes, place)
  } catch (error) {
    if (error instanceof BackingError) return undefined
    throw error
  }
}
