/** An ImageFile in memory: sparse, and cheap to copy, so that a crash can be tried at every write. */
import { readFileSync, writeFileSync } from "node:fs"
import { BackingError } from "../../src/backing/backing.ts"
import type { ImageFile } from "../../src/backing/image-file.ts"
import { SparseBytes } from "./sparse-bytes.ts"

export interface MemoryFileOptions {
  readonly path?: string
  readonly readOnly?: boolean
}

export class MemoryFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  #bytes = new SparseBytes()
  #size = 0
  #isClosed = false
  /** Calls that changed something, for tests that expect none. */
  changes = 0

  constructor(options: MemoryFileOptions = {}) {
    this.path = options.path ?? "memory.img"
    this.readOnly = options.readOnly ?? false
  }

  static of(bytes: Uint8Array, options: MemoryFileOptions = {}): MemoryFile {
    const file = new MemoryFile(options)
    file.#bytes.write(bytes, 0)
    file.#size = bytes.length
    return file
  }

  static load(hostPath: string, options: MemoryFileOptions = {}): MemoryFile {
    return MemoryFile.of(readFileSync(hostPath), options)
  }

  /** A copy of the file, which is open even if this one is closed. */
  clone(options: MemoryFileOptions = {}): MemoryFile {
    const copy = new MemoryFile({ path: this.path, ...options })
    copy.adopt(this)
    return copy
  }

  /** Takes over a copy of the content of `other`. */
  adopt(other: MemoryFile): void {
    this.#bytes = other.#bytes.clone()
    this.#size = other.#size
  }

  size(): number {
    this.#checkOpen()
    return this.#size
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.readInto(buffer, 0, buffer.length, offset)
  }

  /** All reads come here, so that a test can override one method to observe or change them. */
  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    this.#checkOpen()
    checkInside(buffer, start, length)
    const count = Math.max(0, Math.min(length, this.#size - offset))
    this.#bytes.read(buffer.subarray(start, start + count), offset)
    return count
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    let done = 0
    for (const buffer of buffers) {
      const count = this.read(buffer, offset + done)
      done += count
      if (count < buffer.length) break
    }
    return done
  }

  write(buffer: Uint8Array, offset: number): void {
    this.writeFrom(buffer, 0, buffer.length, offset)
  }

  /** Every write ends here, as every read does in `readInto`. */
  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.#checkWritable()
    checkInside(buffer, start, length)
    if (!Number.isSafeInteger(offset) || offset < 0) throw new Error(`write at ${offset}: not a byte position`)
    this.#bytes.write(buffer.subarray(start, start + length), offset)
    this.#size = Math.max(this.#size, offset + length)
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    let at = offset
    for (const buffer of buffers) {
      this.write(buffer, at)
      at += buffer.length
    }
  }

  truncate(size: number): void {
    this.#checkWritable()
    if (size < this.#size) this.#bytes.zero(size, this.#size - size)
    this.#size = size
  }

  punchHole(offset: number, length: number): boolean {
    this.#checkWritable()
    this.#bytes.zero(offset, Math.max(0, Math.min(length, this.#size - offset)))
    return true
  }

  sync(): void {
    this.#checkOpen()
  }

  close(): void {
    this.#isClosed = true
  }

  /** The whole content in one piece, also after close. For small files. */
  toBytes(): Uint8Array {
    const bytes = new Uint8Array(this.#size)
    this.#bytes.read(bytes, 0)
    return bytes
  }

  /** Stores the content as a file of the host. */
  save(hostPath: string): void {
    writeFileSync(hostPath, this.toBytes())
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new BackingError("closed", "the image is closed", { path: this.path })
  }

  #checkWritable(): void {
    this.#checkOpen()
    if (this.readOnly) throw new BackingError("read-only", "the image is open read-only", { path: this.path })
    this.changes++
  }
}

/** Makes the same check as node:fs. */
function checkInside(buffer: Uint8Array, start: number, length: number): void {
  if (start < 0 || length < 0 || start + length > buffer.length) {
    throw new RangeError(`bytes ${start} to ${start + length} of a buffer of ${buffer.length}`)
  }
}
