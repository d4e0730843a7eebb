/** A file that remembers which parts of it were read, and whether they were all zeroes. */
import type { AsyncImageFile } from "vioblk"

/** Bytes that are remembered as one. */
export const GRANULE = 65_536

/** What is known of a granule. */
export const KNOWN = { NOTHING: 0, ZEROES: 1, DATA: 2 } as const

export class RecordedFile implements AsyncImageFile {
  readonly path: string
  readonly readOnly = true
  readonly preferredRead?: number
  /** Bytes and reads so far. */
  bytes = 0
  reads = 0
  readonly #file: AsyncImageFile
  #known = new Uint8Array(0)

  constructor(file: AsyncImageFile) {
    this.#file = file
    this.path = file.path
    if (file.preferredRead !== undefined) this.preferredRead = file.preferredRead
  }

  async size(): Promise<number> {
    const size = await this.#file.size()
    if (this.#known.length === 0) this.#known = new Uint8Array(Math.ceil(size / GRANULE))
    return size
  }

  async read(buffer: Uint8Array, offset: number): Promise<number> {
    const count = await this.#file.read(buffer, offset)
    this.bytes += count
    this.reads++
    for (let done = 0; done < count; ) {
      const granule = Math.floor((offset + done) / GRANULE)
      const part = Math.min((granule + 1) * GRANULE - offset - done, count - done)
      const isZero = buffer.subarray(done, done + part).every((byte) => byte === 0)
      if (this.#known[granule] !== KNOWN.DATA) this.#known[granule] = isZero ? KNOWN.ZEROES : KNOWN.DATA
      done += part
    }
    return count
  }

  /** What is known of the byte at `offset` and its neighbours. */
  knownAt(offset: number): number {
    return this.#known[Math.floor(offset / GRANULE)] ?? KNOWN.NOTHING
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}
