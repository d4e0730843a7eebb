/** RawBacking: a raw image, whose bytes are the disk's bytes. */
import { closesWithBlock, type Disposing } from "../disposing.ts"
import { checkOptions, type Rules } from "../options.ts"
import { BackingError, checkNewSize, checkRange, type DiskVersion, totalLength, versionOf, type VirtioBacking } from "./backing.ts"
import { checkImageFile, type ImageFile, type ImageLock, type TakePiece } from "./image-file.ts"
import { EncryptedFile } from "./luks/encrypted-file.ts"
import { FOREIGN_SIGNATURES, QCOW_SIGNATURE } from "./signatures.ts"

/** Options of `RawBacking`. */
export interface RawBackingOptions {
  /**
   * Refuse writes that would put the signature of another image format at the start of the disk. Set it if the format was probed: the
   * next probe would accept the guest's header, whose backing file name could be any file of the host. Default false.
   */
  readonly guardSignatures?: boolean
}

const RAW_BACKING_RULES: Rules<RawBackingOptions> = { guardSignatures: "boolean?" }

/** Signatures that a guest must not write to the start of a disk whose format was probed. */
const SIGNATURES: readonly Uint8Array[] = [QCOW_SIGNATURE, ...FOREIGN_SIGNATURES.map(([text]) => text)].map(
  (text) => Uint8Array.from(text, (char) => char.charCodeAt(0)),
)
/** Bytes at the start of the disk that a signature could lie in. */
const GUARDED_BYTES = Math.max(...SIGNATURES.map(({ length }) => length))

/** Zeroes are looked for, and written, in pieces of this many bytes. */
const ZERO_CHUNK = 1 << 18
/** The usual block size of file systems: blocks that are zero already are not written. */
const ZERO_BLOCK = 4096
/** Bytes that one call reads, and zeroes where necessary: 0.4 ms, or 1.7 on a busy machine (measured). */
const SCAN_AT_ONCE = 1 << 20
/** A shorter hole is not worth a process of the host, which takes 1 to 3 ms. */
const PUNCH_MINIMUM = 1 << 20
/** From this many bytes on, zeroing by the host is faster than reading them. */
const ZERO_RANGE_MINIMUM = 1 << 22

/** Never written. */
const zeroes = new Uint8Array(ZERO_CHUNK)
/** A buffer for the bytes that are examined. Each call fills it anew. */
const scratch = new Uint8Array(ZERO_CHUNK)
const scratchWords = new Int32Array(scratch.buffer)

/** `using` closes it. */
export interface RawBacking extends Disposing {}

/**
 * A raw image over an `ImageFile`, which it owns. Its size is the file's size at opening; only `resize` and `refreshSize` change it.
 *
 * If the file can punch holes, `discard`, and `writeZeroes` with `mayUnmap`, free space in ranges of 1 MiB or more. Zeroes that may not be
 * unmapped take up space: the host writes them in ranges of 4 MiB or more. Other zeroes are written only where the file does not read as
 * zeroes already, so that a sparse file stays sparse.
 */
export class RawBacking implements VirtioBacking {
  static { closesWithBlock(this) }
  readonly readOnly: boolean
  /** Present if the file is writable and may be able to punch holes. */
  readonly discard?: (offset: number, length: number) => void
  readonly #file: ImageFile
  readonly #isGuarded: boolean
  #size = 0
  /** The file itself refuses calls after `close`. This flag is for calls that do not reach it: short discards, and zeroes over zeroes. */
  #isClosed = false

  /** @throws TypeError for a wrong file or option */
  constructor(file: ImageFile, options: RawBackingOptions = {}) {
    checkImageFile("RawBacking", file)
    checkOptions("RawBacking", options, RAW_BACKING_RULES)
    this.#file = file
    this.#isGuarded = options.guardSignatures ?? false
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

  /** Whether the file is encrypted: then holes do not read as zeroes, and offsets in the file differ from those on the disk. */
  get isEncrypted(): boolean {
    return this.#file instanceof EncryptedFile
  }

  /** What keeps other programs from opening the image. */
  get lock(): ImageLock {
    return this.#file.lock ?? "none"
  }

  version(): DiskVersion | undefined {
    return versionOf("raw", this.#file)
  }

  /** Adopts the file's present size, after somebody else has changed it. Then call the device's `capacityChanged`. */
  refreshSize(): void {
    this.#size = this.#file.size()
  }

  pread(buffer: Uint8Array, offset: number): void {
    this.preadInto(buffer, 0, buffer.length, offset)
  }

  preadInto(ram: Uint8Array, start: number, length: number, offset: number): void {
    checkRange(this.#size, offset, length, this.#file.path)
    const done = this.#file.readInto(ram, start, length, offset)
    if (done < length) this.#failShort(offset + done)
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    const length = totalLength(buffers)
    checkRange(this.#size, offset, length, this.#file.path)
    const done = this.#file.readv(buffers, offset)
    if (done < length) this.#failShort(offset + done)
  }

  /** Whether there is another thread for `preadLater`. */
  get readsLater(): boolean {
    return this.#file.readLater !== undefined
  }

  /** `pread` on another thread, if there is one. Do not close the disk before the promise settles. */
  async preadLater(buffer: Uint8Array, offset: number): Promise<void> {
    checkRange(this.#size, offset, buffer.length, this.#file.path)
    const { length } = buffer
    const done = await (this.#file.readLater?.(buffer, offset) ?? this.#file.read(buffer, offset))
    if (done < length) this.#failShort(offset + done)
  }

  /** `pread` that passes the bytes to `take` as they arrive. Undefined if the caller must use `pread`. */
  preadPast(offset: number, length: number, take: TakePiece): Promise<void> | undefined {
    checkRange(this.#size, offset, length, this.#file.path)
    return this.#file.readPast?.(offset, length, take)?.then((done) => {
      if (done < length) this.#failShort(offset + done)
    })
  }

  pwrite(buffer: Uint8Array, offset: number): void {
    this.pwriteFrom(buffer, 0, buffer.length, offset)
  }

  pwriteFrom(ram: Uint8Array, start: number, length: number, offset: number): void {
    checkRange(this.#size, offset, length, this.#file.path)
    if (this.#isGuarded && offset < GUARDED_BYTES) this.#file.writev(this.#judged([ram.subarray(start, start + length)], offset), offset)
    else this.#file.writeFrom(ram, start, length, offset)
  }

  pwritev(buffers: readonly Uint8Array[], offset: number): void {
    checkRange(this.#size, offset, totalLength(buffers), this.#file.path)
    this.#file.writev(this.#isGuarded && offset < GUARDED_BYTES ? this.#judged(buffers, offset) : buffers, offset)
  }

  flush(): void {
    this.#file.sync()
  }

  get canUnmap(): boolean {
    return this.discard !== undefined && (this.#file.canPunchHole ?? true)
  }

  get unmapsAtOnce(): number {
    return this.canUnmap ? (this.#file.punchesAtOnce ?? Number.MAX_SAFE_INTEGER) : this.zeroesAtOnce
  }

  get zeroesAtOnce(): number {
    if (this.#file.zeroRange === undefined) return SCAN_AT_ONCE
    return Math.max(this.#file.zeroesAtOnce ?? Number.MAX_SAFE_INTEGER, SCAN_AT_ONCE)
  }

  writeZeroes(offset: number, length: number, mayUnmap: boolean): void {
    this.#checkWritable()
    checkRange(this.#size, offset, length, this.#file.path)
    if (length >= PUNCH_MINIMUM) this.#checkEnd(offset + length)
    if (mayUnmap && length >= PUNCH_MINIMUM && this.#file.punchHole?.(offset, length) === true) return
    if (length >= ZERO_RANGE_MINIMUM && this.#file.zeroRange?.(offset, length) === true) return
    // A failed call may have zeroed a part, so every block is examined.
    for (let done = 0; done < length; done += ZERO_CHUNK) this.#zeroWhereNeeded(offset + done, Math.min(ZERO_CHUNK, length - done))
  }

  /**
   * Sets the size of the file and the disk to `size` bytes.
   * @throws BackingError `invalid-argument` for a size that is not a multiple of 512, and for a smaller size without `shrink`;
   * `unsupported` if the size of the file cannot change
   */
  resize(size: number, { shrink = false }: { readonly shrink?: boolean } = {}): void {
    this.#checkWritable()
    checkNewSize({ before: this.#size, size, shrink, path: this.#file.path })
    this.#file.truncate(size)
    this.#size = size
    this.#file.sync()
  }

  /**
   * Grows the disk to `size` by writing zeroes, because a hole in an encrypted image does not read as zeroes. A crash leaves a disk that
   * has grown by a part.
   */
  growByZeroes(size: number): void {
    this.#checkWritable()
    checkNewSize({ before: this.#size, size, shrink: false, path: this.#file.path })
    for (let at = this.#size; at < size; at += ZERO_CHUNK) this.#file.writeFrom(zeroes, 0, Math.min(ZERO_CHUNK, size - at), at)
    this.#size = size
    this.#file.sync()
  }

  close(): void {
    this.#isClosed = true
    this.#file.close()
  }

  #discard(offset: number, length: number): void {
    this.#checkWritable()
    checkRange(this.#size, offset, length, this.#file.path)
    if (length >= PUNCH_MINIMUM) this.#file.punchHole?.(offset, length)
  }

  #checkWritable(): void {
    if (this.#isClosed) throw new BackingError("closed", "the image is closed", { path: this.#file.path })
    if (this.readOnly) throw new BackingError("read-only", "the image is open read-only", { path: this.#file.path })
  }

  /** Overwrites with zeroes each run of blocks that are not zero, of `length` <= ZERO_CHUNK bytes. */
  #zeroWhereNeeded(offset: number, length: number): void {
    this.preadInto(scratch, 0, length, offset)
    const padded = Math.ceil(length / 4) * 4
    scratch.fill(0, length, padded)
    if (isZero(scratchWords, 0, padded)) return
    let start = -1 // where the run of blocks to overwrite begins
    for (let at = 0; at < length; at += ZERO_BLOCK) {
      if (isZero(scratchWords, at, Math.min(at + ZERO_BLOCK, padded))) {
        if (start >= 0) this.#file.writeFrom(zeroes, 0, at - start, offset + start)
        start = -1
      } else if (start < 0) start = at
    }
    if (start >= 0) this.#file.writeFrom(zeroes, 0, length - start, offset + start)
  }

  /** Detects that the file has become shorter, for host calls that do not. */
  #checkEnd(end: number): void {
    const size = this.#file.size()
    if (end > size) this.#failShort(size)
  }

  #failShort(end: number): never {
    const path = this.#file.path
    throw new BackingError(
      "io",
      `the file ends at byte ${end}, but the disk has ${this.#size} bytes: somebody has cut the file while it was open`,
      { path, offset: end },
    )
  }

  /**
   * The buffers to write, if their beginning is not a signature. The checked part is a copy: guest RAM may change after the check, if
   * another thread runs the guest.
   */
  #judged(buffers: readonly Uint8Array[], offset: number): Uint8Array[] {
    const judged: Uint8Array[] = []
    let left = GUARDED_BYTES - offset
    for (const buffer of buffers) {
      const length = Math.min(left, buffer.length)
      if (length > 0) judged.push(buffer.slice(0, length))
      if (length < buffer.length) judged.push(buffer.subarray(length))
      left -= length
    }
    this.#refuseSignature(judged, offset)
    return judged
  }

  /** Reads only the first bytes of `buffers`, which lie below GUARDED_BYTES. */
  #refuseSignature(buffers: readonly Uint8Array[], offset: number): void {
    const start = new Uint8Array(GUARDED_BYTES)
    this.#file.read(start, 0)
    let at = offset
    for (const buffer of buffers) {
      if (at >= GUARDED_BYTES) break
      start.set(buffer.subarray(0, GUARDED_BYTES - at), at)
      at += buffer.length
    }
    if (!SIGNATURES.some((signature) => signature.every((byte, index) => start[index] === byte))) return
    const what = "the guest writes the signature of another image format over a disk whose format was guessed"
    throw new BackingError("permission", `${what}; open it with format "raw" to allow it`, {
      path: this.#file.path,
      offset,
    })
  }
}

/** Whether bytes `start` .. `end`, both multiples of 4, are zero. */
function isZero(words: Int32Array, start: number, end: number): boolean {
  for (let at = start / 4; at < end / 4; at++) if (words[at] !== 0) return false
  return true
}
