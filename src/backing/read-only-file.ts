/** ReadOnlyFile: a read-only view of a writable file. */
import { BackingError, type DiskVersion } from "./backing.ts"
import type { ImageFile, ImageLock } from "./image-file.ts"

/** Owns the file: `close` closes it. */
export class ReadOnlyFile implements ImageFile {
  readonly path: string
  readonly readOnly = true
  readonly lock: ImageLock
  readonly #file: ImageFile

  constructor(file: ImageFile) {
    this.path = file.path
    this.lock = file.lock ?? "none"
    this.#file = file
  }

  size(): number {
    return this.#file.size()
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.#file.read(buffer, offset)
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    return this.#file.readInto(buffer, start, length, offset)
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    return this.#file.readv(buffers, offset)
  }

  write(): void {
    this.#refuse()
  }

  writeFrom(): void {
    this.#refuse()
  }

  writev(): void {
    this.#refuse()
  }

  truncate(): void {
    this.#refuse()
  }

  version(): DiskVersion | undefined {
    return this.#file.version?.()
  }

  sync(): void {
    this.#file.sync()
  }

  close(): void {
    this.#file.close()
  }

  #refuse(): never {
    throw new BackingError("read-only", "the image is open read-only", { path: this.path })
  }
}
