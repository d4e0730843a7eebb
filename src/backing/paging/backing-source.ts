/** A disk as a file, so that an image can use an asynchronous disk as its backing image. */
import type { AsyncImageFile } from "../async-image-file.ts"
import { BackingError, type VirtioBacking } from "../backing.ts"

/** Read-only. Owns the disk: `close` closes it. */
export class BackingSource implements AsyncImageFile {
  readonly path: string
  readonly readOnly = true
  readonly #disk: VirtioBacking

  constructor(disk: VirtioBacking, path: string) {
    this.#disk = disk
    this.path = path
  }

  async size(): Promise<number> {
    return this.#disk.size
  }

  async read(buffer: Uint8Array, offset: number): Promise<number> {
    const count = Math.max(0, Math.min(buffer.length, this.#disk.size - offset))
    if (count > 0) await this.#disk.pread(buffer.subarray(0, count), offset)
    return count
  }

  async close(): Promise<void> {
    await this.#disk.close()
  }
}

/** A synchronous disk in the form in which an image reads its backing image. Refuses promises. */
export class BackingReader {
  readonly #disk: VirtioBacking

  constructor(disk: VirtioBacking) {
    this.#disk = disk
  }

  get size(): number {
    return this.#disk.size
  }

  get slow(): boolean {
    return this.#disk.slow === true
  }

  pread(buffer: Uint8Array, offset: number): void {
    refusePromise(this.#disk.pread(buffer, offset))
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    for (const buffer of buffers) {
      this.pread(buffer, offset)
      offset += buffer.length
    }
  }

  close(): void {
    refusePromise(this.#disk.close())
  }
}

function refusePromise(answer: void | Promise<void>): void {
  if (answer === undefined) return
  answer.catch(() => undefined)
  throw new BackingError("invalid-argument", "a disk that is not `asynchronous` returned a promise")
}
