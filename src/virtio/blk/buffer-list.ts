/** BufferList: the data of one or several requests as views of guest RAM, joined where they touch. */
import type { GuestMemory, RamRegion } from "../guest-memory.ts"
import type { BlkRequest } from "./request.ts"

/**
 * The stretch of RAM that was added last is two numbers until the next one begins, or `last` asks for it: a view costs 20 ns, and to
 * store it in an object that lives longer another 15 (measured). So the one view that most requests need is never stored.
 */
export class BufferList {
  /** The views of all stretches but the last, in the order of the disk. A new array after each list that had any: they may be in use still. */
  rest: Uint8Array[] = []
  #region: RamRegion | undefined
  #start = 0
  #end = 0

  clear(): void {
    if (this.rest.length > 0) this.rest = []
    this.#region = undefined
  }

  /** Appends the data of `request`. All of it is RAM: the queue has checked it. */
  add(request: BlkRequest, memory: GuestMemory): void {
    let segment = request.dataSegment
    let offset = request.dataOffset
    for (let left = request.dataLength; left > 0; segment++, offset = 0) {
      const address = request.address(segment) + offset
      const length = Math.min(left, request.length(segment) - offset)
      if (address === this.#end && this.#region !== undefined && address < this.#region.end) {
        this.#end += length
      } else {
        const before = this.last()
        if (before !== undefined) this.rest.push(before)
        this.#region = memory.region(address)
        this.#start = address
        this.#end = address + length
      }
      left -= length
    }
  }

  /** The view of the last stretch; undefined when nothing was added. */
  last(): Uint8Array | undefined {
    return this.#region?.view(this.#start, this.#end - this.#start)
  }
}
