/**
 * RamAllocator: hands out pieces of guest RAM for rings and buffers, as a kernel's allocator would. First fit over a sorted list
 * of free extents; neighbours merge when freed.
 */
import { checkOptions } from "../../options.ts"
import { DriverError } from "./errors.ts"
import type { Platform } from "./platform.ts"

/** A range of guest RAM. */
export interface RamRange {
  /** First guest-physical address. */
  readonly start: number
  /** Bytes. */
  readonly length: number
}

interface Extent {
  start: number
  end: number
}

/** Below 1 MiB a PC has its BIOS and video memory: the default allocator does not use that where there is more. */
const LOW_MEMORY_END = 0x10_0000
const PAGE_SIZE = 4096

const shared = new WeakMap<Platform, RamAllocator>()

/** Hands out guest RAM from one range. */
export class RamAllocator {
  /** The bytes that there are to hand out, free or not. */
  readonly capacity: number
  readonly #free: Extent[]
  readonly #allocated = new Map<number, number>()

  /** @throws TypeError for wrong options, RangeError when the range is not a range of addresses */
  constructor(range: RamRange) {
    checkOptions("RamAllocator", range, { start: "number", length: "number" })
    if (!Number.isSafeInteger(range.start) || !Number.isSafeInteger(range.length) || range.start < 0 || range.length < 0) {
      throw new RangeError(`${range.start} + ${range.length} is not a range of guest RAM`)
    }
    this.capacity = range.length
    this.#free = range.length === 0 ? [] : [{ start: range.start, end: range.start + range.length }]
  }

  /**
   * The allocator that all drivers of a platform share by default: all RAM from 1 MiB up, or all but the first page of a machine with less
   * than 2 MiB. Only for machines whose RAM nobody else uses.
   */
  static of(platform: Platform): RamAllocator {
    let allocator = shared.get(platform)
    if (allocator === undefined) {
      const size = platform.ram.length
      const start = size >= 2 * LOW_MEMORY_END ? LOW_MEMORY_END : Math.min(PAGE_SIZE, size)
      allocator = new RamAllocator({ start, length: size - start })
      shared.set(platform, allocator)
    }
    return allocator
  }

  /** The bytes that are free, in all pieces together. */
  get available(): number {
    return this.#free.reduce((sum, extent) => sum + extent.end - extent.start, 0)
  }

  /** Number of allocations not yet freed. */
  get allocations(): number {
    return this.#allocated.size
  }

  /**
   * `length` bytes at a multiple of `alignment`.
   * @throws DriverError ("no-memory") when no free extent holds them
   */
  allocate(length: number, alignment = 16): number {
    const address = this.tryAllocate(length, alignment)
    if (address !== undefined) return address
    throw new DriverError(
      "no-memory",
      `no ${length} bytes of guest RAM are free at an alignment of ${alignment}; give the driver more memory`,
    )
  }

  /** Like `allocate`, but undefined when there is no room. */
  tryAllocate(length: number, alignment = 16): number | undefined {
    if (!Number.isSafeInteger(length) || length <= 0) throw new RangeError(`cannot allocate ${length} bytes`)
    if (!Number.isSafeInteger(alignment) || alignment <= 0) throw new RangeError(`alignment ${alignment} is not a whole number from 1 up`)
    for (let index = 0; index < this.#free.length; index++) {
      const extent = this.#free[index]
      if (extent === undefined) break
      const address = Math.ceil(extent.start / alignment) * alignment
      if (length > extent.end - address) continue
      this.#cut(index, extent, address, address + length)
      this.#allocated.set(address, length)
      return address
    }
    return undefined
  }

  /**
   * Gives back what `allocate` returned.
   * @throws RangeError for an address that was freed twice or never handed out
   */
  free(address: number): void {
    const length = this.#allocated.get(address)
    if (length === undefined) throw new RangeError(`guest address ${address} is not allocated`)
    this.#allocated.delete(address)
    let at = this.#free.findIndex((extent) => extent.start > address)
    if (at < 0) at = this.#free.length
    const before = this.#free[at - 1]
    const after = this.#free[at]
    const joinsBefore = before !== undefined && before.end === address
    const joinsAfter = after !== undefined && after.start === address + length
    if (joinsBefore && joinsAfter) {
      before.end = after.end
      this.#free.splice(at, 1)
    } else if (joinsBefore) before.end = address + length
    else if (joinsAfter) after.start = address
    else this.#free.splice(at, 0, { start: address, end: address + length })
  }

  /** Takes start..end out of the free extent that contains it. The rest on either side stays free. */
  #cut(index: number, extent: Extent, start: number, end: number): void {
    const rest = { start: end, end: extent.end }
    const isRest = rest.start < rest.end
    if (extent.start < start) {
      extent.end = start
      if (isRest) this.#free.splice(index + 1, 0, rest)
    } else if (isRest) extent.start = end
    else this.#free.splice(index, 1)
  }
}
