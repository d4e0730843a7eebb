/**
 * DescriptorChain: one buffer that the driver made available, as a flat list of RAM segments. SegmentList: the segments of all
 * chains of a batch. Both are filled anew for each batch: an object for each descriptor costs 80 ns and more, and arrays for each
 * chain push a batch out of the processor's first cache (measured).
 */
import type { GuestMemory, RamRegion } from "../guest-memory.ts"
import { hex, VirtqueueError } from "./virtqueue-error.ts"

const INITIAL_CAPACITY = 256
/** Words of a segment: index of its region, offset in the region, length. */
const WORDS = 3
/** Regions that a list keeps from one batch to the next. */
const KEPT_REGIONS = 4

/** Stretches of RAM, each in one region. Integers in one array: a batch of them stays in the cache. */
export class SegmentList {
  /** Index in `regions`, offset in bytes from the start of the region, and length in bytes, of each segment in turn. */
  words: Uint32Array
  count = 0
  readonly regions: RamRegion[] = []

  constructor(capacity = INITIAL_CAPACITY) {
    this.words = new Uint32Array(WORDS * capacity)
  }

  /** The index of `region` in `regions`, where it is put if need be. */
  indexOf(region: RamRegion): number {
    if (this.regions[0] === region) return 0
    const index = this.regions.lastIndexOf(region)
    return index >= 0 ? index : this.regions.push(region) - 1
  }

  push(region: number, offset: number, length: number): void {
    const at = WORDS * this.count
    if (at === this.words.length) this.#grow()
    this.words[at] = region
    this.words[at + 1] = offset
    this.words[at + 2] = length
    this.count++
  }

  clear(): void {
    this.count = 0
    // Those of a memory that has been replaced must not be kept for ever.
    if (this.regions.length > KEPT_REGIONS) this.regions.length = 0
  }

  #grow(): void {
    const words = new Uint32Array(2 * this.words.length)
    words.set(this.words)
    this.words = words
  }
}

/** Device-readable segments first, then the device-writable ones. Segments are not empty. */
export class DescriptorChain {
  /** Index of the first descriptor: the id that goes into the used ring. */
  head = 0
  /** Number of segments in all. */
  count = 0
  /** Number of device-readable segments; the writable ones follow. */
  readableCount = 0
  /** Bytes in the readable segments. */
  readableLength = 0
  /** Bytes in the writable segments. */
  writableLength = 0
  /** Where the segments are: `count` of them, from `first` on. */
  segments: SegmentList
  first = 0

  /** Whoever fills the chain appends its segments to `segments`. */
  constructor(segments: SegmentList) {
    this.segments = segments
  }

  /** The region of segment `index`, which is one of the chain's. */
  region(index: number): RamRegion {
    const { regions, words } = this.segments
    const region = regions[words[WORDS * (this.first + index)] ?? 0]
    if (region === undefined) throw new RangeError(`chain ${this.head} has no segment ${index}`)
    return region
  }

  /** Offset in its region of segment `index`, in bytes. */
  offset(index: number): number {
    return this.segments.words[WORDS * (this.first + index) + 1] ?? 0
  }

  /** Bytes in segment `index`. */
  length(index: number): number {
    return this.segments.words[WORDS * (this.first + index) + 2] ?? 0
  }

  /** Guest-physical address of segment `index`. */
  address(index: number): number {
    return this.region(index).start + this.offset(index)
  }

  /** Gives the chain a list of its own, so that it outlives its batch. */
  detach(): void {
    const own = new SegmentList(this.count)
    for (let index = 0; index < this.count; index++) own.push(own.indexOf(this.region(index)), this.offset(index), this.length(index))
    this.segments = own
    this.first = 0
  }

  /** Finds the segments in the RAM that has replaced the one where the queue found them. @throws VirtqueueError when one is not there any more */
  relocate(memory: GuestMemory): void {
    const { segments } = this
    for (let index = 0; index < this.count; index++) {
      const address = this.address(index)
      const region = memory.region(address)
      if (region === undefined || this.length(index) > region.end - address) throw new VirtqueueError(`${hex(address)} is not RAM any more, chain ${this.head}`)
      const at = WORDS * (this.first + index)
      segments.words[at] = segments.indexOf(region)
      segments.words[at + 1] = region.offset(address)
    }
  }
}
