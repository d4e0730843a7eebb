/**
 * An ImageFile whose content is never loaded at first, like that of a remote file: a read throws an error that is not a `BackingError`, and
 * finds the bytes when it is repeated. It forgets everything now and then.
 */
import type { ImageFile } from "../../src/backing/image-file.ts"
import type { Rng } from "./rng.ts"

/** Thrown by a read whose bytes are not loaded yet. */
export class NotHere extends Error {}

const PAGE = 4096

export class ForgetfulFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  /** Reads that failed so far. */
  faults = 0
  readonly #inner: ImageFile
  readonly #rng: Rng
  #here = new Set<number>()

  constructor(inner: ImageFile, rng: Rng) {
    this.#inner = inner
    this.#rng = rng
    this.path = inner.path
    this.readOnly = inner.readOnly
  }

  /** Repeats `work` until all of its bytes are loaded. They stay loaded until it has ended. */
  insist<T>(work: () => T): T {
    if (this.#rng.chance(0.5)) this.#here.clear()
    for (let attempt = 0; attempt < 10_000; attempt++) {
      try {
        return work()
      } catch (error) {
        if (!(error instanceof NotHere)) throw error
      }
    }
    throw new Error("no end of faults")
  }

  size(): number {
    return this.#inner.size()
  }

  read(buffer: Uint8Array, offset: number): number {
    this.#need(offset, buffer.length)
    return this.#inner.read(buffer, offset)
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    this.#need(offset, length)
    return this.#inner.readInto(buffer, start, length, offset)
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    this.#need(offset, buffers.reduce((sum, buffer) => sum + buffer.length, 0))
    return this.#inner.readv(buffers, offset)
  }

  write(buffer: Uint8Array, offset: number): void {
    this.#inner.write(buffer, offset)
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.#inner.writeFrom(buffer, start, length, offset)
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    this.#inner.writev(buffers, offset)
  }

  truncate(size: number): void {
    this.#inner.truncate(size)
  }

  punchHole(offset: number, length: number): boolean {
    return this.#inner.punchHole?.(offset, length) ?? false
  }

  sync(): void {
    this.#inner.sync()
  }

  close(): void {
    this.#inner.close()
  }

  #need(offset: number, length: number): void {
    for (let page = Math.floor(offset / PAGE); page * PAGE < offset + length; page++) {
      if (this.#here.has(page)) continue
      this.#here.add(page)
      this.faults++
      throw new NotHere(`page ${page} is not here yet`)
    }
  }
}
