/**
 * SectorIo turns reads and writes of an encrypted area, at any place and of any length, into those of whole sectors. To write a part of a
 * sector, it first reads the rest. The caller's buffers only ever hold plain text, and writes do not change them.
 */
import { BufferCursor, BufferFiller } from "../bytes/buffers.ts"
import { SECTOR_BYTES, type SectorCipher } from "./sector-cipher.ts"

/** The encrypted file, accessed in whole sectors. */
export interface SectorStore {
  /** Fills `bytes`. */
  read(bytes: Uint8Array, offset: number): void
  write(bytes: Uint8Array, offset: number): void
}

/** Most bytes to transform together. Longer runs do not fit into the processor's cache (measured). */
const MOST_AT_ONCE = 128 * 1024

export class SectorIo {
  readonly #cipher: SectorCipher
  readonly #store: SectorStore
  /** Grows as needed. Only one call uses it at a time, and leaves nothing in it for the next. */
  #scratch = new Uint8Array(0)

  constructor(cipher: SectorCipher, store: SectorStore) {
    this.#cipher = cipher
    this.#store = store
  }

  /**
   * Fills `buffers`, `length` bytes in all, from byte `offset` of the store. `place`: the byte that numbers the sectors there. Both have
   * the same distance from the start of a sector.
   */
  read(buffers: readonly Uint8Array[], offset: number, length: number, place: number): void {
    const filler = new BufferFiller(buffers)
    for (let done = 0; done < length;) {
      const within = (offset + done) % SECTOR_BYTES
      const piece = Math.min(length - done, MOST_AT_ONCE - within)
      const bytes = this.#take(wholeSectors(within + piece))
      this.#store.read(bytes, offset + done - within)
      this.#cipher.decrypt(bytes, (place + done - within) / SECTOR_BYTES)
      filler.fill(piece === bytes.length ? bytes : bytes.subarray(within, within + piece))
      done += piece
    }
  }

  /** Stores `buffers`, `length` bytes in all, at byte `offset` of the store. `place` as for `read`. */
  write(buffers: readonly Uint8Array[], offset: number, length: number, place: number): void {
    const cursor = new BufferCursor(buffers)
    for (let done = 0; done < length;) {
      const within = (offset + done) % SECTOR_BYTES
      const piece = Math.min(length - done, MOST_AT_ONCE - within)
      const bytes = this.#take(wholeSectors(within + piece))
      const from = { offset: offset + done - within, sector: (place + done - within) / SECTOR_BYTES }
      const last = bytes.length - SECTOR_BYTES
      if (within > 0) this.#fetch(bytes.subarray(0, SECTOR_BYTES), from.offset, from.sector)
      if (within + piece < bytes.length && (last > 0 || within === 0)) {
        this.#fetch(bytes.subarray(last), from.offset + last, from.sector + last / SECTOR_BYTES)
      }
      let at = within
      for (const part of cursor.take(piece)) {
        bytes.set(part, at)
        at += part.length
      }
      this.#cipher.encrypt(bytes, from.sector)
      this.#store.write(bytes, from.offset)
      done += piece
    }
  }

  #fetch(sector: Uint8Array, offset: number, number: number): void {
    this.#store.read(sector, offset)
    this.#cipher.decrypt(sector, number)
  }

  #take(length: number): Uint8Array {
    if (this.#scratch.length < length) this.#scratch = new Uint8Array(length)
    return this.#scratch.subarray(0, length)
  }
}

function wholeSectors(length: number): number {
  return Math.ceil(length / SECTOR_BYTES) * SECTOR_BYTES
}
