/** RawBacking: a file whose bytes are the disk's bytes. */
import { BackingError, checkRange, totalLength, type VirtioBacking } from "./backing.ts"
import type { ImageFile, ImageLock } from "./image-file.ts"
import { FOREIGN_SIGNATURES, QCOW_SIGNATURE } from "./signatures.ts"

export interface RawBackingOptions {
  /**
   * Refuse writes that would put the signature of another image format at the start of the disk. Set it when the format was
   * guessed: on the next opening the guess would fall for the guest's header, whose backing file name could be any file of
   * the host. Default false.
   */
  readonly guardSignatures?: boolean
}

/** What a guest must not write over the start of a disk whose format was guessed. */
const SIGNATURES: readonly Uint8Array[] = [QCOW_SIGNATURE, ...FOREIGN_SIGNATURES.map(([text]) => text)].map((text) => Uint8Array.from(text, (char) => char.charCodeAt(0)))
const LONGEST_SIGNATURE = Math.max(...SIGNATURES.map(({ length }) => length))

/** Zeroes are looked for, and written, in pieces of this many bytes. */
const ZERO_CHUNK = 1 << 18
/** What a file system allocates at a time, mostly: the grain at which a piece of zeroes is left out. */
const ZERO_BLOCK = 4096
/** Below this many bytes a hole is not worth the process that punching it takes. */
const PUNCH_MINIMUM = 1 << 20

const zeroes = new Uint8Array(ZERO_CHUNK)

/**
 * A raw image over an `ImageFile`, which it owns. The size is the file's when it was opened (`refreshSize` looks again); the
 * file is never grown or cut. Space is given back to the host by `discard`, and by `writeZeroes` with `mayUnmap`, where the
 * file can punch holes, in ranges of 1 MiB or more; less is not worth what it costs. Other zeroes are written, but only where
 * the file does not read as zeroes already, so a sparse file stays sparse.
 */
export class RawBacking implements VirtioBacking {
  readonly readOnly: boolean
  /** Present when the file can be written and may be able to punch holes. */
  readonly discard?: (offset: number, length: number) => void
  readonly #file: ImageFile
  readonly #guard: boolean
  #size: number
  /** The file says so itself wherever it is called; a short discard does not call it. */
  #closed = false

  constructor(file: ImageFile, options: RawBackingOptions = {}) {
    this.#file = file
    this.#guard = options.guardSignatures ?? false
    this.readOnly = file.readOnly
    this.#size = file.size()
    if (!file.readOnly && file.punchHole !== undefined) this.discard = this.#discard.bind(this)
  }

  get size(): number {
    return this.#size
  }

  /** The file's name. */
  get path(): string {
    return this.#file.path
  }

  /** What keeps other programs from opening the image. */
  get lock(): ImageLock {
    return this.#file.lock ?? "none"
  }

  /** Takes over the file's present size, after somebody has grown or cut it; then tell the device (`capacityChanged`). */
  refreshSize(): void {
    this.#size = this.#file.size()
  }

  pread(buffer: Uint8Array, offset: number): void {
    checkRange(this.#size, offset, buffer.length, this.#file.path)
    const done = this.#file.read(buffer, offset)
    if (done < buffer.length) this.#failShort(offset + done)
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    const length = totalLength(buffers)
    checkRange(this.#size, offset, length, this.#file.path)
    const done = this.#file.readv(buffers, offset)
    if (done < length) this.#failShort(offset + done)
  }

  pwrite(buffer: Uint8Array, offset: number): void {
    checkRange(this.#size, offset, buffer.length, this.#file.path)
    if (this.#guard && offset < LONGEST_SIGNATURE) for (const judged of this.#judged([buffer], offset)) this.#file.write(judged, offset)
    else this.#file.write(buffer, offset)
  }

  pwritev(buffers: readonly Uint8Array[], offset: number): void {
    checkRange(this.#size, offset, totalLength(buffers), this.#file.path)
    this.#file.writev(this.#guard && offset < LONGEST_SIGNATURE ? this.#judged(buffers, offset) : buffers, offset)
  }

  flush(): void {
    this.#file.sync()
  }

  writeZeroes(offset: number, length: number, mayUnmap: boolean): void {
    checkRange(this.#size, offset, length, this.#file.path)
    if (mayUnmap && length >= PUNCH_MINIMUM && this.#file.punchHole?.(offset, length) === true) return
    const buffer = new Uint8Array(Math.min(length, ZERO_CHUNK))
    for (let done = 0; done < length; done += ZERO_CHUNK) {
      const piece = buffer.subarray(0, Math.min(ZERO_CHUNK, length - done))
      this.pread(piece, offset + done)
      this.#zeroWhereNeeded(piece, offset + done)
    }
  }

  close(): void {
    this.#closed = true
    this.#file.close()
  }

  #discard(offset: number, length: number): void {
    if (this.#closed) throw new BackingError("closed", "the image is closed", { path: this.#file.path })
    checkRange(this.#size, offset, length, this.#file.path)
    if (length >= PUNCH_MINIMUM) this.#file.punchHole?.(offset, length)
  }

  /** Overwrites with zeroes each run of blocks of `content`, which is what the file holds at `offset`, that is not zero. */
  #zeroWhereNeeded(content: Uint8Array, offset: number): void {
    let start = -1 // of the run of blocks to overwrite
    for (let at = 0; at < content.length; at += ZERO_BLOCK) {
      if (isZero(content, at, Math.min(at + ZERO_BLOCK, content.length))) {
        if (start >= 0) this.#file.write(zeroes.subarray(0, at - start), offset + start)
        start = -1
      } else if (start < 0) start = at
    }
    if (start >= 0) this.#file.write(zeroes.subarray(0, content.length - start), offset + start)
  }

  #failShort(end: number): never {
    const path = this.#file.path
    throw new BackingError("io", `the file ends at byte ${end}, but the disk has ${this.#size} bytes: somebody has cut the file while it was open`, { path, offset: end })
  }

  /** A copy of what is to be written, once it has been found harmless: guest RAM may change in between, where another thread runs the guest. */
  #judged(buffers: readonly Uint8Array[], offset: number): Uint8Array[] {
    const copies = buffers.map((buffer) => buffer.slice())
    this.#refuseSignature(copies, offset)
    return copies
  }

  #refuseSignature(buffers: readonly Uint8Array[], offset: number): void {
    const start = new Uint8Array(LONGEST_SIGNATURE)
    this.#file.read(start, 0)
    let at = offset
    for (const buffer of buffers) {
      if (at < LONGEST_SIGNATURE) start.set(buffer.subarray(0, LONGEST_SIGNATURE - at), at)
      at += buffer.length
    }
    if (!SIGNATURES.some((signature) => signature.every((byte, index) => start[index] === byte))) return
    throw new BackingError("permission", 'the guest writes the signature of another image format over a disk whose format was guessed; open it with format "raw" to allow it', {
      path: this.#file.path,
      offset,
    })
  }
}

function isZero(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) if (bytes[at] !== 0) return false
  return true
}
