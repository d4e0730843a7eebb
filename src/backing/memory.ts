/** MemoryBacking: a disk in memory that takes up only what was written to it. */
import { checkOptions, type Rules } from "../options.ts"
import { BackingError, checkRange, totalLength, type VirtioBacking } from "./backing.ts"

/** Bytes that are allocated together. */
const CHUNK_SIZE = 1 << 16

/** Options of `MemoryBacking`. */
export interface MemoryBackingOptions {
  /** Bytes. */
  readonly size: number
  readonly readOnly?: boolean
}

const MEMORY_BACKING_RULES: Rules<MemoryBackingOptions> = { size: "number", readOnly: "boolean?" }

/** A sparse disk in memory: chunks of 64 KiB come into being with the first write, so an empty disk of 1 TiB takes no room. */
export class MemoryBacking implements VirtioBacking {
  readonly readOnly: boolean
  readonly discardGranularity = CHUNK_SIZE
  readonly #chunks = new Map<number, Uint8Array>()
  #size: number
  #isClosed = false

  /** @throws TypeError for wrong options; BackingError ("invalid-argument") for a size that is not a number of bytes from 0 to 2^53 */
  constructor(options: MemoryBackingOptions) {
    checkOptions("MemoryBacking", options, MEMORY_BACKING_RULES)
    checkSize(options.size)
    this.#size = options.size
    this.readOnly = options.readOnly ?? false
  }

  get size(): number {
    return this.#size
  }

  /** Bytes of memory that content takes up. */
  get allocated(): number {
    return this.#chunks.size * CHUNK_SIZE
  }

  /** Sets the size in bytes; what is cut off is gone. Tell the device afterwards (`capacityChanged`). */
  resize(size: number): void {
    checkSize(size)
    if (size < this.#size) this.#clear(size, this.#size - size)
    this.#size = size
  }

  pread(buffer: Uint8Array, offset: number): void {
    this.preadInto(buffer, 0, buffer.length, offset)
  }

  preadInto(ram: Uint8Array, start: number, length: number, offset: number): void {
    this.#check(offset, length)
    for (let done = 0; done < length; ) {
      const within = (offset + done) % CHUNK_SIZE
      const part = Math.min(CHUNK_SIZE - within, length - done)
      const chunk = this.#chunks.get((offset + done - within) / CHUNK_SIZE)
      if (chunk === undefined) ram.fill(0, start + done, start + done + part)
      else ram.set(new Uint8Array(chunk.buffer, within, part), start + done)
      done += part
    }
  }

  pwrite(buffer: Uint8Array, offset: number): void {
    this.pwriteFrom(buffer, 0, buffer.length, offset)
  }

  pwriteFrom(ram: Uint8Array, start: number, length: number, offset: number): void {
    this.#check(offset, length)
    this.#checkWritable()
    for (let done = 0; done < length; ) {
      const within = (offset + done) % CHUNK_SIZE
      const part = Math.min(CHUNK_SIZE - within, length - done)
      this.#chunk((offset + done - within) / CHUNK_SIZE).set(new Uint8Array(ram.buffer, ram.byteOffset + start + done, part), within)
      done += part
    }
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    this.#check(offset, totalLength(buffers))
    for (const buffer of buffers) {
      this.pread(buffer, offset)
      offset += buffer.length
    }
  }

  pwritev(buffers: readonly Uint8Array[], offset: number): void {
    this.#check(offset, totalLength(buffers))
    for (const buffer of buffers) {
      this.pwrite(buffer, offset)
      offset += buffer.length
    }
  }

  /** Memory is as stable as it gets; here so that the device offers VIRTIO_BLK_F_FLUSH, which guests expect of a disk. */
  flush(): void {
    this.#check(0, 0)
  }

  discard(offset: number, length: number): void {
    this.writeZeroes(offset, length)
  }

  writeZeroes(offset: number, length: number): void {
    this.#check(offset, length)
    this.#checkWritable()
    this.#clear(offset, length)
  }

  close(): void {
    this.#isClosed = true
    this.#chunks.clear()
  }

  #chunk(index: number): Uint8Array {
    let chunk = this.#chunks.get(index)
    if (chunk === undefined) {
      chunk = new Uint8Array(CHUNK_SIZE)
      this.#chunks.set(index, chunk)
    }
    return chunk
  }

  /** Drops whole chunks, and zeroes what exists of partial ones. */
  #clear(offset: number, length: number): void {
    const end = offset + length
    // A range may span millions of chunks that do not exist: walks whichever is fewer, the range's chunks or the existing ones.
    const first = Math.floor(offset / CHUNK_SIZE)
    const last = Math.ceil(end / CHUNK_SIZE)
    const indices = last - first < this.#chunks.size ? Array.from({ length: last - first }, (_, i) => first + i) : [...this.#chunks.keys()]
    for (const index of indices) {
      const start = index * CHUNK_SIZE
      if (start >= end || start + CHUNK_SIZE <= offset) continue
      if (offset <= start && start + CHUNK_SIZE <= end) this.#chunks.delete(index)
      else this.#chunks.get(index)?.fill(0, Math.max(offset - start, 0), Math.min(end - start, CHUNK_SIZE))
    }
  }

  #check(offset: number, length: number): void {
    if (this.#isClosed) throw new BackingError("closed", "the disk is closed")
    checkRange(this.#size, offset, length)
  }

  #checkWritable(): void {
    if (this.readOnly) throw new BackingError("read-only", "the disk is read-only")
  }
}

function checkSize(size: number): void {
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new BackingError("invalid-argument", `size ${size} is not a number of bytes from 0 to 2^53`)
  }
}
