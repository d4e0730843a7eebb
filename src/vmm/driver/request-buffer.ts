/**
 * RequestBuffer: guest RAM for one block request: room for an indirect table, then header, data and status in one run of bytes.
 * RequestBuffers hands them out and keeps those that a broken device may still write to, until it has been reset.
 */
import { BLK_HEADER } from "./blk-spec.ts"
import { DriverError } from "./errors.ts"
import type { RamAllocator } from "./ram-allocator.ts"
import { DESCRIPTOR } from "./virtio-spec.ts"

/** Data of this size and up starts on a page: the host then copies up to a fifth faster. */
const PAGE_SIZE = 4096

/** Memory of one request. Addresses are guest-physical. */
export interface RequestBuffer {
  /** An indirect table of `tableEntries` descriptors. */
  readonly table: number
  readonly tableEntries: number
  /** 16 bytes, right before the data. */
  readonly header: number
  readonly data: number
  /** Bytes of data that fit; the status byte comes right after the data in use. */
  readonly capacity: number
  /** The device has it: it must stay as it is until the device returns it or has been reset. */
  isInDevice: boolean
  /** Further pieces of RAM to free with it. */
  readonly pieces: number[]
}

/** The request buffers of one driver. */
export class RequestBuffers {
  readonly #memory: RamAllocator
  #orphans: RequestBuffer[] = []
  #waiting: (() => void)[] = []
  #taken = 0

  constructor(memory: RamAllocator) {
    this.#memory = memory
  }

  /** A buffer, or undefined when there is no room for it now. */
  tryTake(capacity: number, tableEntries: number): RequestBuffer | undefined {
    const alignment = capacity >= PAGE_SIZE ? PAGE_SIZE : BLK_HEADER.SIZE
    const before = Math.ceil((tableEntries * DESCRIPTOR.SIZE + BLK_HEADER.SIZE) / alignment) * alignment
    const table = this.#memory.tryAllocate(before + capacity + 1, alignment)
    if (table === undefined) return undefined
    this.#taken++
    const data = table + before
    return { table, tableEntries, header: data - BLK_HEADER.SIZE, data, capacity, isInDevice: false, pieces: [table] }
  }

  /** A buffer, as soon as there is room. Throws `DriverError` ("no-memory") when no request is left that could make room. */
  async take(capacity: number, tableEntries: number): Promise<RequestBuffer> {
    for (;;) {
      const buffer = this.tryTake(capacity, tableEntries)
      if (buffer !== undefined) return buffer
      if (this.#taken === this.#orphans.length) throw new DriverError("no-memory", `guest RAM has no room for a request of ${capacity} bytes; give the driver more memory`)
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  /** Gives a buffer back; one that is still the device's is kept until `reclaim`. */
  release(buffer: RequestBuffer): void {
    if (buffer.isInDevice) this.#orphans.push(buffer)
    else this.#free(buffer)
    this.#wake()
  }

  /** After a reset: frees what was given back while it was the device's, and is so no longer. */
  reclaim(): void {
    const orphans = this.#orphans
    this.#orphans = orphans.filter((buffer) => buffer.isInDevice)
    for (const buffer of orphans) if (!buffer.isInDevice) this.#free(buffer)
    this.#wake()
  }

  /** Separate memory for the descriptors of a scattered request, freed with the buffer. Throws `DriverError` ("no-memory"). */
  addPiece(buffer: RequestBuffer, length: number): number {
    // One byte more than needed on either side of the next piece: what touches by chance would hide a mistake.
    const piece = this.#memory.allocate(length + 1)
    buffer.pieces.push(piece)
    return piece
  }

  #free(buffer: RequestBuffer): void {
    for (const piece of buffer.pieces.splice(0)) this.#memory.free(piece)
    this.#taken--
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resume of waiting) resume()
  }
}
