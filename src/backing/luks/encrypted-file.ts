/**
 * EncryptedFile: the decrypted payload of a raw LUKS image, as an `ImageFile`. It has no holes, because a hole of the encrypted file does
 * not read as zeroes.
 */
import { BackingError, type DiskVersion, totalLength } from "../backing.ts"
import type { ImageFile, ImageLock } from "../image-file.ts"
import { BufferCursor } from "../bytes/buffers.ts"
import { SECTOR_BYTES, type SectorCipher } from "./sector-cipher.ts"
import { SectorIo } from "./sector-io.ts"

export class EncryptedFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  readonly lock: ImageLock
  readonly #file: ImageFile
  /** The byte of the file where the payload, and the numbering of sectors, begins. */
  readonly #payload: number
  readonly #io: SectorIo

  /** Owns `file`. */
  constructor(file: ImageFile, options: { readonly payloadOffset: number; readonly cipher: SectorCipher }) {
    this.#file = file
    this.#payload = options.payloadOffset
    this.path = file.path
    this.readOnly = file.readOnly
    this.lock = file.lock ?? "none"
    this.#io = new SectorIo(options.cipher, {
      read: (bytes, offset) => {
        const found = file.read(bytes, offset)
        if (found < bytes.length) throw this.#cutOff(offset + found)
      },
      write: (bytes, offset) => file.write(bytes, offset),
    })
  }

  size(): number {
    return Math.max(0, Math.floor((this.#file.size() - this.#payload) / SECTOR_BYTES) * SECTOR_BYTES)
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.readInto(buffer, 0, buffer.length, offset)
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    return this.#readSome([buffer.subarray(start, start + length)], offset, length)
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    return this.#readSome(buffers, offset, totalLength(buffers))
  }

  #readSome(buffers: readonly Uint8Array[], offset: number, length: number): number {
    const available = Math.max(0, Math.min(length, this.size() - offset))
    const wanted = available === length ? buffers : new BufferCursor(buffers).take(available)
    this.#io.read(wanted, this.#payload + offset, available, offset)
    return available
  }

  write(buffer: Uint8Array, offset: number): void {
    this.writeFrom(buffer, 0, buffer.length, offset)
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.#io.write([buffer.subarray(start, start + length)], this.#payload + offset, length, offset)
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    this.#io.write(buffers, this.#payload + offset, totalLength(buffers), offset)
  }

  truncate(size: number): void {
    this.#file.truncate(this.#payload + size)
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

  #cutOff(end: number): BackingError {
    const message = `the file ends at byte ${end}, inside of an encrypted sector`
    return new BackingError("io", message, { path: this.path, offset: end })
  }
}
