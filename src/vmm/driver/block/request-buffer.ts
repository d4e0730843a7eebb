/**
 * RequestBuffer: guest RAM for one block request: room for an indirect table, then header, data and status in one run of bytes.
 * RequestBuffers hands them out. It keeps the ones that a broken device may still write to until the device has been reset.
 */
import { BLK_HEADER } from "./spec.ts"
import { DriverError } from "../errors.ts"
import type { RamAllocator } from "../ram-allocator.ts"
import { DESCRIPTOR } from "../virtio/spec.ts"

/** Data of this size or more starts on a page: the host then copies up to a fifth faster. */
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
  /** The device may access it until it returns it or has been reset. */
  isInDevice: boolean
  /** All pieces of RAM that belong to it, its own first. */
  readonly pieces: number[]
}

/** A request that waits for a buffer. */
interface Waiter {
  readonly capacity: number
  readonly tableEntries: number
  resolve(buffer: RequestBuffer): void
  reject(error: DriverError): void
}

/** The request buffers of one driver. */
export class RequestBuffers {
  readonly #memory: RamAllocator
  readonly #waiting: Waiter[] = []
  #orphans: RequestBuffer[] = []
  #taken = 0

  constructor(memory: RamAllocator) {
    this.#memory = memory
  }

  /** A buffer, or undefined when there is no room now or others wait already. */
  tryTake(capacity: number, tableEntries: number): RequestBuffer | undefined {
    return this.#waiting.length > 0 ? undefined : this.#allocate(capacity, tableEntries)
  }

  /** A buffer, as soon as there is room. Rejects with `DriverError` ("no-memory") when no other request is left to make room. */
  take(capacity: number, tableEntries: number): Promise<RequestBuffer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ capacity, tableEntries, resolve, reject })
      this.#serveWaiting()
    })
  }

  /** Gives a buffer back. One that the device may still access is kept until `reclaim`. */
  release(buffer: RequestBuffer): void {
    if (buffer.isInDevice) this.#orphans.push(buffer)
    else this.#free(buffer)
    this.#serveWaiting()
  }

  /** After a reset: frees the buffers that were given back while the device could access them. */
  reclaim(): void {
    const orphans = this.#orphans
    this.#orphans = orphans.filter((buffer) => buffer.isInDevice)
    for (const buffer of orphans) if (!buffer.isInDevice) this.#free(buffer)
    this.#serveWaiting()
  }

  /** Rejects all who wait. */
  rejectWaiting(error: DriverError): void {
    for (const waiter of this.#waiting.splice(0)) waiter.reject(error)
  }

  /**
   * Separate memory for a descriptor of a scattered request, freed with the buffer if not before.
   * @throws DriverError ("no-memory")
   */
  addPiece(buffer: RequestBuffer, length: number): number {
    // One byte more than needed: adjacent pieces would hide a device's mistake.
    const piece = this.#memory.allocate(length + 1)
    buffer.pieces.push(piece)
    return piece
  }

  /** Frees the separate memory again. The buffer is not the device's. */
  dropPieces(buffer: RequestBuffer): void {
    for (const piece of buffer.pieces.splice(1)) this.#memory.free(piece)
  }

  #allocate(capacity: number, tableEntries: number): RequestBuffer | undefined {
    const alignment = capacity >= PAGE_SIZE ? PAGE_SIZE : BLK_HEADER.SIZE
    const before = Math.ceil((tableEntries * DESCRIPTOR.SIZE + BLK_HEADER.SIZE) / alignment) * alignment
    const table = this.#memory.tryAllocate(before + capacity + 1, alignment)
    if (table === undefined) return undefined
    this.#taken++
    const data = table + before
    return { table, tableEntries, header: data - BLK_HEADER.SIZE, data, capacity, isInDevice: false, pieces: [table] }
  }

  /** First come, first served: a large request is not starved by small ones. */
  #serveWaiting(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const buffer = this.#allocate(first.capacity, first.tableEntries)
      if (buffer !== undefined) {
        first.resolve(buffer)
      } else if (this.#taken > this.#orphans.length) {
        return
      } else {
        first.reject(
          new DriverError("no-memory", `guest RAM has no room for a request of ${first.capacity} bytes; give the driver more memory`),
        )
      }
      this.#waiting.shift()
    }
  }

  #free(buffer: RequestBuffer): void {
    for (const piece of buffer.pieces.splice(0)) this.#memory.free(piece)
    this.#taken--
  }
}
