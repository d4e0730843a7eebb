/**
 * DescriptorChain: one buffer that the driver made available, as a flat list of RAM segments. SegmentList: the segments of all
 * chains of a batch. Both are filled anew for each batch: an object for each descriptor costs 80 ns and more, arrays for each chain
 * push a batch out of the processor's first cache (measured).
 */

const INITIAL_CAPACITY = 256

/** Segments one behind the other: the guest-physical address and the length, in bytes, of each. */
export class SegmentList {
  /** Element 2i is the address of segment i, element 2i+1 its length. */
  words = new Float64Array(2 * INITIAL_CAPACITY)
  count = 0

  /** Appends a segment. */
  push(address: number, length: number): void {
    const at = 2 * this.count
    if (at === this.words.length) this.#grow()
    this.words[at] = address
    this.words[at + 1] = length
    this.count++
  }

  #grow(): void {
    const words = new Float64Array(2 * this.words.length)
    words.set(this.words)
    this.words = words
  }
}

/** Device-readable segments first, then the device-writable ones; each lies in one RAM region. */
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
  /** One past the guest-physical address of the last byte of the last segment. */
  end = 0
  /** Where the segments are: this many from `first` on. */
  segments: SegmentList
  first = 0

  /** Whoever fills the chain appends its segments to `segments`. */
  constructor(segments: SegmentList) {
    this.segments = segments
  }

  /** Guest-physical address of segment `index`, which is one of the chain's. */
  address(index: number): number {
    return this.segments.words[2 * (this.first + index)] ?? 0
  }

  /** Bytes in segment `index`, which is one of the chain's. */
  length(index: number): number {
    return this.segments.words[2 * (this.first + index) + 1] ?? 0
  }

  /** Gives the chain a list of its own, so that it outlives its batch. */
  detach(): void {
    const own = new SegmentList()
    for (let index = 0; index < this.count; index++) own.push(this.address(index), this.length(index))
    this.segments = own
    this.first = 0
  }
}
