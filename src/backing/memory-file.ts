/** MemoryFile: an image file in memory, for instance an overlay in a page, which can be kept or downloaded. */
import { checkBytes, checkCount, checkOptions, type Rules } from "../options.ts"
import { BackingError, totalLength } from "./backing.ts"
import type { ImageFile } from "./image-file.ts"
import { SparseMemory } from "./sparse-memory.ts"

/** Options of `MemoryFile`. */
export interface MemoryFileOptions {
  /** A name for messages. Names that an image gives to its backing files are relative to it. Default "memory". */
  readonly path?: string
  /** Default false. */
  readonly readOnly?: boolean
  /**
   * The maximum size of the file in bytes, which bounds the memory for a guest's writes. Writes beyond it fail with `no-space`; a full
   * image still serves every request that needs no more room. Default: no limit.
   */
  readonly largestSize?: number
}

const MEMORY_FILE_RULES: Rules<MemoryFileOptions> = { path: "string?", readOnly: "boolean?", largestSize: "number?" }

/** `Blob`, where the platform's types are there. */
export type PlatformBlob = typeof globalThis extends { Blob: new (...parts: never[]) => infer B } ? B : unknown

/** A file in memory. Memory is allocated by writes, in chunks of 64 KiB. */
export class MemoryFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  readonly largestSize: number
  #memory = new SparseMemory()
  #size = 0
  #isClosed = false

  /** @throws TypeError or RangeError for wrong options */
  constructor(options: MemoryFileOptions = {}) {
    checkOptions("MemoryFile", options, MEMORY_FILE_RULES)
    checkCount("MemoryFile", "largestSize", options.largestSize, 0)
    this.path = options.path ?? "memory"
    this.readOnly = options.readOnly ?? false
    this.largestSize = options.largestSize ?? Number.POSITIVE_INFINITY
  }

  /**
   * A file with the content `bytes`, which are not copied, except a last piece of less than 64 KiB. Writes change them, so the caller must
   * not.
   * @throws TypeError for what is not a Uint8Array, and for wrong options
   */
  static from(bytes: Uint8Array, options: MemoryFileOptions = {}): MemoryFile {
    checkBytes("MemoryFile.from", "bytes", bytes)
    const file = new MemoryFile(options)
    file.#memory = SparseMemory.over(bytes)
    file.#size = bytes.length
    return file
  }

  /** Bytes of allocated memory. */
  get allocated(): number {
    return this.#memory.allocated
  }

  size(): number {
    this.#checkOpen()
    return this.#size
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.readInto(buffer, 0, buffer.length, offset)
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    this.#checkOpen()
    const count = Math.max(0, Math.min(length, this.#size - offset))
    this.#memory.read(buffer, start, count, offset)
    return count
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    let done = 0
    for (const buffer of buffers) done += this.read(buffer, offset + done)
    return done
  }

  /** @throws BackingError `read-only`, `closed`, `no-space` */
  write(buffer: Uint8Array, offset: number): void {
    this.writeFrom(buffer, 0, buffer.length, offset)
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.#checkRoom(offset + length)
    this.#memory.write(buffer, start, length, offset)
    this.#size = Math.max(this.#size, offset + length)
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    this.#checkRoom(offset + totalLength(buffers))
    let at = offset
    for (const buffer of buffers) {
      this.#memory.write(buffer, 0, buffer.length, at)
      at += buffer.length
    }
    this.#size = Math.max(this.#size, offset + totalLength(buffers))
  }

  truncate(size: number): void {
    this.#checkRoom(size)
    if (size < this.#size) this.#memory.zero(size, this.#size - size)
    this.#size = size
  }

  punchHole(offset: number, length: number): boolean {
    this.#checkWritable()
    this.#memory.zero(offset, length)
    return true
  }

  zeroRange(offset: number, length: number): boolean {
    return this.punchHole(offset, length)
  }

  /** Nothing to do: memory has no stable storage. */
  sync(): void {
    this.#checkOpen()
  }

  /** The content stays available through `bytes` and `toBlob`; `MemoryFile.from` opens it again. */
  close(): void {
    this.#isClosed = true
  }

  /** A copy of the content in one piece, also when the file is closed. @throws RangeError when it is too long for one array */
  bytes(): Uint8Array {
    const bytes = new Uint8Array(this.#size)
    for (const [offset, chunk] of this.#content()) bytes.set(chunk, offset)
    return bytes
  }

  /** The content as a Blob, to be kept or downloaded, also when the file is closed. Holes are shared, and cost no copy. */
  toBlob(): PlatformBlob {
    const parts: Blob[] = []
    const zeroes = new Blob([new Uint8Array(1 << 20)])
    let at = 0
    const hole = (end: number): void => {
      while (at < end) {
        const length = Math.min(end - at, zeroes.size)
        parts.push(length === zeroes.size ? zeroes : zeroes.slice(0, length))
        at += length
      }
    }
    for (const [offset, chunk] of this.#content()) {
      hole(offset)
      parts.push(new Blob([chunk.slice()]))
      at += chunk.length
    }
    hole(this.#size)
    return new Blob(parts)
  }

  /** The chunks of the file, the last one cut at its end. Zeroed chunks may exist beyond the end after the file has shrunk. */
  *#content(): Generator<readonly [offset: number, bytes: Uint8Array]> {
    for (const [offset, chunk] of this.#memory.chunks()) {
      if (offset < this.#size) yield [offset, chunk.subarray(0, this.#size - offset)]
    }
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new BackingError("closed", "the image is closed", { path: this.path })
  }

  #checkWritable(): void {
    this.#checkOpen()
    if (this.readOnly) throw new BackingError("read-only", "the image is open read-only", { path: this.path })
  }

  /** @throws BackingError `no-space` if the file may not have `size` bytes */
  #checkRoom(size: number): void {
    this.#checkWritable()
    if (size <= this.largestSize) return
    throw new BackingError("no-space", `the file would have ${size} bytes, and may have ${this.largestSize} at most`, { path: this.path })
  }
}
