/** A synchronous file as an asynchronous one. */
import type { AsyncImageFile } from "../async-image-file.ts"
import type { DiskVersion } from "../backing.ts"
import type { ImageFile, ImageLock } from "../image-file.ts"

/** Owns the file: `close` closes it. */
export class AnsweredFile implements AsyncImageFile {
  readonly path: string
  readonly readOnly: boolean
  readonly lock: ImageLock
  readonly largestSize: number
  readonly #file: ImageFile

  constructor(file: ImageFile) {
    this.#file = file
    this.path = file.path
    this.readOnly = file.readOnly
    this.lock = file.lock ?? "none"
    this.largestSize = file.largestSize ?? Number.POSITIVE_INFINITY
  }

  async size(): Promise<number> {
    return this.#file.size()
  }

  async read(buffer: Uint8Array, offset: number): Promise<number> {
    return this.#file.read(buffer, offset)
  }

  async readScattered(buffers: readonly Uint8Array[], offset: number): Promise<number> {
    return this.#file.readv(buffers, offset)
  }

  async write(buffer: Uint8Array, offset: number): Promise<void> {
    this.#file.write(buffer, offset)
  }

  async truncate(size: number): Promise<void> {
    this.#file.truncate(size)
  }

  async sync(): Promise<void> {
    this.#file.sync()
  }

  async punchHole(offset: number, length: number): Promise<boolean> {
    return this.#file.canPunchHole !== false && this.#file.punchHole?.(offset, length) === true
  }

  async zeroRange(offset: number, length: number): Promise<boolean> {
    return this.#file.zeroRange?.(offset, length) === true
  }

  version(): DiskVersion | undefined {
    return this.#file.version?.()
  }

  async close(): Promise<void> {
    this.#file.close()
  }
}
