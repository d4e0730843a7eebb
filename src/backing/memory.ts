/** MemoryBacking: a sparse disk in memory. */
import { closesWithBlock, type Disposing } from "../disposing.ts"
import { checkBytes, checkOptions, type Rules } from "../options.ts"
import { type Allocation, BackingError, checkRange, totalLength, type VirtioBacking } from "./backing.ts"
import { CHUNK_SIZE, SparseMemory } from "./sparse-memory.ts"

/** Options of `MemoryBacking`. */
export interface MemoryBackingOptions {
  /** Bytes. */
  readonly size: number
  readonly readOnly?: boolean
}

const MEMORY_BACKING_RULES: Rules<MemoryBackingOptions> = { size: "number", readOnly: "boolean?" }

/** `using` closes it. */
export interface MemoryBacking extends Disposing {}

/** A sparse disk in memory: the first write to a chunk of 64 KiB allocates it, so an empty disk of 1 TiB takes no memory. */
export class MemoryBacking implements VirtioBacking {
  static { closesWithBlock(this) }
  readonly readOnly: boolean
  readonly discardGranularity = CHUNK_SIZE
  #memory = new SparseMemory()
  #size = 0
  #isClosed = false

  /** @throws TypeError for wrong options; BackingError ("invalid-argument") for a size that is not a number of bytes from 0 to 2^53 */
  constructor(options: MemoryBackingOptions) {
    checkOptions("MemoryBacking", options, MEMORY_BACKING_RULES)
    checkSize(options.size)
    this.#size = options.size
    this.readOnly = options.readOnly ?? false
  }

  /**
   * A disk with the content `bytes`, which are not copied, except a last piece of less than 64 KiB. The guest's writes change them, so the
   * caller must not. `readOnly`: default false.
   * @throws TypeError for what is not a Uint8Array, and for wrong options
   */
  static from(bytes: Uint8Array, options: Pick<MemoryBackingOptions, "readOnly"> = {}): MemoryBacking {
    checkBytes("MemoryBacking.from", "bytes", bytes)
    checkOptions("MemoryBacking.from", options, { readOnly: "boolean?" })
    const backing = new MemoryBacking({ ...options, size: bytes.length })
    backing.#memory = SparseMemory.over(bytes)
    return backing
  }

  get size(): number {
    return this.#size
  }

  /** Bytes of allocated memory. */
  get allocated(): number {
    return this.#memory.allocated
  }

  /**
   * Sets the size in bytes, a smaller one even without `shrink`. If a device uses the disk, call the device's `resize` instead, or its
   * `capacityChanged` afterwards.
   */
  resize(size: number, _options: { readonly shrink?: boolean } = {}): void {
    checkSize(size)
    if (size < this.#size) this.#memory.zero(size, this.#size - size)
    this.#size = size
  }

  pread(buffer: Uint8Array, offset: number): void {
    this.preadInto(buffer, 0, buffer.length, offset)
  }

  preadInto(ram: Uint8Array, start: number, length: number, offset: number): void {
    this.#check(offset, length)
    this.#memory.read(ram, start, length, offset)
  }

  pwrite(buffer: Uint8Array, offset: number): void {
    this.pwriteFrom(buffer, 0, buffer.length, offset)
  }

  pwriteFrom(ram: Uint8Array, start: number, length: number, offset: number): void {
    this.#check(offset, length)
    this.#checkWritable()
    this.#memory.write(ram, start, length, offset)
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

  /** Does nothing; it exists so that the device offers VIRTIO_BLK_F_FLUSH, which guests expect of a disk. */
  flush(): void {
    this.#check(0, 0)
  }

  discard(offset: number, length: number): void {
    this.writeZeroes(offset, length)
  }

  /** Zeroes the bytes in place. There is no other copy. */
  secureErase(offset: number, length: number): void {
    this.writeZeroes(offset, length)
  }

  writeZeroes(offset: number, length: number): void {
    this.#check(offset, length)
    this.#checkWritable()
    this.#memory.zero(offset, length)
  }

  allocation(offset: number, length: number): Allocation {
    this.#check(offset, length)
    return this.#memory.allocation(offset, length)
  }

  close(): void {
    this.#isClosed = true
    this.#memory.clear()
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
