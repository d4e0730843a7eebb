/**
 * DescriptorChain: one buffer that the driver made available, as a flat list of RAM segments.
 * A chain object is filled anew for each request: an object for each descriptor costs 80 ns and more (measured), this 5.
 */

const INITIAL_CAPACITY = 8
/** Arrays larger than this are given back after use, so that one huge chain does not hold its memory for ever. */
const KEPT_CAPACITY = 64

/** Device-readable segments first, then the device-writable ones; each lies in one RAM region. Addresses and lengths in bytes. */
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
  addresses = new Float64Array(INITIAL_CAPACITY)
  lengths = new Float64Array(INITIAL_CAPACITY)

  reset(head: number): void {
    this.head = head
    this.count = 0
    this.readableCount = 0
    this.readableLength = 0
    this.writableLength = 0
    if (this.addresses.length > KEPT_CAPACITY) {
      this.addresses = new Float64Array(INITIAL_CAPACITY)
      this.lengths = new Float64Array(INITIAL_CAPACITY)
    }
  }

  /** Appends a segment of `length` > 0 bytes. The caller has checked that readable ones come first and that all of it is RAM. */
  push(address: number, length: number, writable: boolean): void {
    const index = this.count
    if (index === this.addresses.length) this.#grow()
    this.addresses[index] = address
    this.lengths[index] = length
    this.count = index + 1
    if (writable) {
      this.writableLength += length
    } else {
      this.readableCount = index + 1
      this.readableLength += length
    }
  }

  #grow(): void {
    const addresses = new Float64Array(this.addresses.length * 2)
    const lengths = new Float64Array(this.lengths.length * 2)
    addresses.set(this.addresses)
    lengths.set(this.lengths)
    this.addresses = addresses
    this.lengths = lengths
  }
}
