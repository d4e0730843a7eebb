/**
 * SegmentList: stretches of RAM, for all chains of a batch. SegmentRun: consecutive segments of a list. DescriptorChain: one buffer that
 * the driver made available. All are reused for each batch: an object for each descriptor costs 80 ns and more, and arrays for each
 * chain push a batch out of the processor's first cache (measured).
 */
import type { GuestMemory, RamRegion } from "../guest-memory.ts"
import { hex, VirtqueueError } from "./virtqueue-error.ts"

const INITIAL_CAPACITY = 256
/** The words of a segment: index of its region, offset in the region, length. */
export const SEGMENT_WORDS = 3
const WORDS = SEGMENT_WORDS
/** Regions that a list keeps from one batch to the next. */
const KEPT_REGIONS = 4

/** Stretches of RAM, each in one region, as integers in one array, so that a batch stays in the cache. */
export class SegmentList {
  /** Index in `regions`, offset in bytes from the start of the region, and length in bytes, of each segment in turn. */
  words: Uint32Array
  count = 0
  readonly regions: RamRegion[] = []

  constructor(capacity = INITIAL_CAPACITY) {
    this.words = new Uint32Array(WORDS * capacity)
  }

  /** The index of `region` in `regions`, to which it is added if necessary. */
  indexOf(region: RamRegion): number {
    if (this.regions[0] === region) return 0
    const index = this.regions.lastIndexOf(region)
    return index >= 0 ? index : this.regions.push(region) - 1
  }

  /** Removes all segments, and all regions but `region`. */
  keepOnly(region: RamRegion): void {
    this.count = 0
    if (!this.isAllIn(region)) this.regions.length = 0
  }

  /** Whether all segments are in `region`. */
  isAllIn(region: RamRegion): boolean {
    return this.regions.length === 1 && this.regions[0] === region
  }

  push(region: number, offset: number, length: number): void {
    const at = WORDS * this.count
    if (at === this.words.length) this.grow()
    this.words[at] = region
    this.words[at + 1] = offset
    this.words[at + 2] = length
    this.count++
  }

  clear(): void {
    this.count = 0
    // Regions of a memory that has been replaced must not be kept for ever.
    if (this.regions.length > KEPT_REGIONS) this.regions.length = 0
  }

  /** Doubles the capacity. Returns the new `words`. */
  grow(): Uint32Array {
    const words = new Uint32Array(2 * this.words.length)
    words.set(this.words)
    this.words = words
    return words
  }
}

/** `count` segments of a list, from `first` on. Segments are not empty. */
export class SegmentRun {
  segments: SegmentList
  first = 0
  count = 0

  /** The caller appends the run's segments to `segments`. */
  constructor(segments: SegmentList) {
    this.segments = segments
  }

  /** The region of the run's segment `index`. */
  region(index: number): RamRegion {
    const { regions, words } = this.segments
    const region = regions[words[WORDS * (this.first + index)] ?? 0]
    if (region === undefined) throw new RangeError(`there is no segment ${index}`)
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

  /** Copies the segments to a list of the run's own, so that the run outlives the batch. */
  detach(): void {
    const own = new SegmentList(this.count)
    this.appendTo(own)
    this.segments = own
    this.first = 0
  }

  appendTo(list: SegmentList): void {
    for (let index = 0; index < this.count; index++) list.push(list.indexOf(this.region(index)), this.offset(index), this.length(index))
  }

  /** Finds the segments again after RAM has been replaced. @throws VirtqueueError when one is no longer in RAM */
  relocate(memory: GuestMemory): void {
    const { segments } = this
    for (let index = 0; index < this.count; index++) {
      const address = this.address(index)
      const region = stillRam(memory, address, this.length(index))
      const at = WORDS * (this.first + index)
      segments.words[at] = segments.indexOf(region)
      segments.words[at + 1] = region.offset(address)
    }
  }
}

/** The region that holds these bytes now. @throws VirtqueueError when no single region holds them any more */
export function stillRam(memory: GuestMemory, address: number, length: number): RamRegion {
  const region = memory.region(address)
  if (region !== undefined && length <= region.end - address) return region
  throw new VirtqueueError(`${hex(address)} is not RAM any more`)
}

/** Device-readable segments first, then the device-writable ones. */
export class DescriptorChain extends SegmentRun {
  /** Index of the first descriptor, or the buffer id in a packed ring. Goes into the used entry. */
  head = 0
  /** See `TakenChain`. */
  place = 0
  slots = 0
  /** Descriptors read for the chain. Empty ones count, because they take time although they make no segments. */
  descriptors = 0
  /** Number of device-readable segments; the writable ones follow. */
  readableCount = 0
  /** Bytes in the readable segments. */
  readableLength = 0
  /** Bytes in the writable segments. */
  writableLength = 0

  /** Becomes a copy of `other`, whose segments are added to this chain's list. */
  copy(other: DescriptorChain): void {
    const { segments } = this
    this.head = other.head
    this.place = other.place
    this.slots = other.slots
    this.descriptors = other.descriptors
    this.readableCount = other.readableCount
    this.readableLength = other.readableLength
    this.writableLength = other.writableLength
    this.first = segments.count
    this.count = other.count
    other.appendTo(segments)
  }
}
