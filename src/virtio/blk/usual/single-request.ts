/**
 * SingleRequest: the usual request that comes alone, with data in one buffer, read straight from its descriptors. It repeats checks of
 * `DescriptorTable.walk`, `parseRequest` and `transferRefusal`; test/fuzz/usual compares the two. It is apart from `takeSplit`, which
 * reads any number of requests: to begin and end such a loop costs a single request more than to read it (45 ns, measured).
 *
 * RAM may change while it is read: every word is read once.
 */
import { RamRegion } from "../../guest-memory.ts"
import type { SplitChains, TakenChain } from "../../queue/ring.ts"
import { VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../../spec.ts"
import type { RequestLimits } from "../request.ts"
import { HEADER_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import { ADDRESSES_WITH_ROWS, MOST_BYTES_OF_ONE } from "./columns.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { IN, OUT } = VIRTIO_BLK_T
const [DESC_SIZE, HEADER, ADDRESSES, MOST_BYTES] = [VIRTQ_DESC_SIZE, HEADER_SIZE, ADDRESSES_WITH_ROWS, MOST_BYTES_OF_ONE] as const
const DATA_WRITABLE = NEXT | WRITE

const NOWHERE = new RamRegion(0, new Uint8Array(0))

export class SingleRequest implements TakenChain {
  head = 0
  place = 0
  slots = 0
  /** The region of its buffers. */
  region = NOWHERE
  /** IN or OUT. */
  type: number = IN
  /** First sector. */
  sector = 0
  /** Byte offset of the data in the region, and bytes. */
  offset = 0
  length = 0
  /** Byte offset of the status byte there. */
  status = 0

  /**
   * Takes the next chain of `ring`, in which one waits. Returns false, with nothing taken, when it is not a usual request with one buffer.
   * `>>> 0` changes no number that is used: without it V8 computes in doubles, for sums might have 33 bits.
   */
  take(ring: SplitChains, limits: RequestLimits): boolean {
    const { table, avail, size, lastAvail } = ring
    const { region, indirect } = table
    const { data } = region
    if (region.end >= ADDRESSES || ring.inFlight >= size) return false
    const start = region.start >>> 0
    const limit = (region.end - start) >>> 0
    const head = avail.getUint16((4 + 2 * (lastAvail & (size - 1))) >>> 0, true)
    if (head >= size) return false
    let base = table.offset >>> 0
    let entries = size
    let at = (base + DESC_SIZE * head) >>> 0
    let links = data.getUint32((at + 12) >>> 0, true)
    if ((links & 0xffff) === INDIRECT) {
      const length = data.getUint32((at + 8) >>> 0, true)
      if (!indirect || data.getUint32((at + 4) >>> 0, true) !== 0) return false
      base = (data.getUint32(at, true) - start) >>> 0
      if (base > limit || length > (limit - base) >>> 0 || length === 0 || (length & (DESC_SIZE - 1)) !== 0) return false
      entries = length >>> 4
      at = base
      links = data.getUint32((at + 12) >>> 0, true)
    }
    // The header. An address before the region makes an offset beyond its end.
    if ((links & 0xffff) !== NEXT || data.getUint32((at + 8) >>> 0, true) !== HEADER) return false
    if (data.getUint32((at + 4) >>> 0, true) !== 0) return false
    const header = (data.getUint32(at, true) - start) >>> 0
    let next = links >>> 16
    if (header > limit || HEADER > (limit - header) >>> 0 || next >= entries) return false
    const type = data.getUint32(header, true)
    const sector = data.getUint32((header + 8) >>> 0, true)
    if ((type !== IN && (type !== OUT || limits.readOnly)) || data.getUint32((header + 12) >>> 0, true) !== 0) return false
    // The data.
    at = (base + DESC_SIZE * next) >>> 0
    links = data.getUint32((at + 12) >>> 0, true)
    if ((links & 0xffff) !== (type === IN ? DATA_WRITABLE : NEXT) || data.getUint32((at + 4) >>> 0, true) !== 0) return false
    const offset = (data.getUint32(at, true) - start) >>> 0
    const length = data.getUint32((at + 8) >>> 0, true)
    next = links >>> 16
    if (offset > limit || length > (limit - offset) >>> 0 || length === 0 || length > MOST_BYTES || next >= entries) return false
    const capacity = limits.capacity < ADDRESSES ? limits.capacity >>> 0 : 0xffff_ffff
    if ((length & 511) !== 0 || sector > capacity || length >>> 9 > (capacity - sector) >>> 0) return false
    // The status byte.
    at = (base + DESC_SIZE * next) >>> 0
    links = data.getUint32((at + 12) >>> 0, true)
    if ((links & 0xffff) !== WRITE || data.getUint32((at + 8) >>> 0, true) !== 1) return false
    const status = (data.getUint32(at, true) - start) >>> 0
    if (data.getUint32((at + 4) >>> 0, true) !== 0 || status >= limit) return false
    ring.lastAvail = (lastAvail + 1) & 0xffff
    ring.inFlight++
    // A store of an object costs several of a number.
    if (this.region !== region) this.region = region
    this.head = head
    this.type = type
    this.sector = sector
    this.offset = offset
    this.length = length
    this.status = status
    return true
  }
}
