/**
 * EncryptedData: guest clusters that are stored encrypted (QC-AES-01, QC-LUKS-04). Under LUKS a sector's IV is its number in the file, so
 * bytes that move to another cluster are encrypted again. Under the old AES it is the sector's number on the disk.
 */
import type { SectorCipher } from "../luks/sector-cipher.ts"
import { SectorIo } from "../luks/sector-io.ts"
import type { GuestData } from "./guest-data.ts"

/** An unlocked image's cipher. */
export interface ImageCipher {
  readonly sectors: SectorCipher
  /** Sectors are numbered by their offset in the file ("host") or on the disk ("guest"). */
  readonly numberedBy: "host" | "guest"
}

export class EncryptedData implements GuestData {
  readonly #data: GuestData
  readonly #io: SectorIo
  readonly #isByHost: boolean

  constructor(data: GuestData, { sectors, numberedBy }: ImageCipher) {
    this.#data = data
    this.#isByHost = numberedBy === "host"
    this.#io = new SectorIo(sectors, {
      read: (bytes, host) => data.readInto(bytes, 0, bytes.length, host, 0),
      write: (bytes, host) => data.writeFrom(bytes, 0, bytes.length, host, 0),
    })
  }

  /** Always false: a hole in the file does not decrypt to zeroes. */
  isUnused(): boolean {
    return false
  }

  claim(end: number): void {
    this.#data.claim(end)
  }

  readInto(buffer: Uint8Array, start: number, length: number, host: number, guest: number): void {
    this.readv([buffer.subarray(start, start + length)], host, length, guest)
  }

  readv(buffers: readonly Uint8Array[], host: number, length: number, guest: number): void {
    this.#io.read(buffers, host, length, this.#isByHost ? host : guest)
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, host: number, guest: number): void {
    this.writev([buffer.subarray(start, start + length)], host, length, guest)
  }

  writev(buffers: readonly Uint8Array[], host: number, length: number, guest: number): void {
    this.#io.write(buffers, host, length, this.#isByHost ? host : guest)
  }
}
