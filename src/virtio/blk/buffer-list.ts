/** BufferList: the data of one or several requests as views of guest RAM, joined where they touch. */
import type { GuestMemory, RamRegion } from "../guest-memory.ts"
import type { BlkRequest } from "./request.ts"

export class BufferList {
  /** The views, in order of the disk. Complete after `finish`. */
  buffers: Uint8Array[] = []
  /** The stretch of RAM that is being collected: a view costs 13 ns, a comparison 1 (measured). */
  #region: RamRegion | undefined
  #start = 0
  #end = 0

  clear(): void {
    this.buffers.length = 0
    this.#region = undefined
  }

  /** Appends the data of `request`. All of it is RAM: the queue has checked it. */
  add(request: BlkRequest, memory: GuestMemory): void {
    const { addresses, lengths } = request.chain
    let segment = request.dataSegment
    let offset = request.dataOffset
    for (let left = request.dataLength; left > 0; segment++, offset = 0) {
      const address = (addresses[segment] ?? 0) + offset
      const length = Math.min(left, (lengths[segment] ?? 0) - offset)
      if (address === this.#end && this.#region !== undefined && address < this.#region.end) {
        this.#end += length
      } else {
        this.finish()
        this.#region = memory.region(address)
        this.#start = address
        this.#end = address + length
      }
      left -= length
    }
  }

  /** Turns the last stretch into a view. */
  finish(): void {
    const region = this.#region
    if (region === undefined) return
    this.buffers.push(new Uint8Array(region.bytes.buffer, region.bytes.byteOffset + (this.#start - region.start), this.#end - this.#start))
    this.#region = undefined
  }
}
