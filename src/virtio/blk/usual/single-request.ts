/**
 * SingleRequest: a usual request that comes alone, with data in one buffer, read straight from its descriptors. It repeats checks of
 * `DescriptorTable.walk`, `PackedDescriptors.walk`, `parseRequest` and `transferRefusal`; test/fuzz/usual compares the results. It is
 * separate from split-request.ts and packed-request.ts, which read any number of requests: starting and ending their loops costs a single
 * request more than reading it (45 ns, measured).
 *
 * RAM may change while it is read, so each word is read only once.
 */
import { RamRegion } from "../../guest-memory.ts"
import type { PackedChains, SplitChains, TakenChain } from "../../queue/ring.ts"
import { PVIRTQ_DESC_F, VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../../spec.ts"
import type { RequestLimits } from "../request.ts"
import { HEADER_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import { ADDRESSES_WITH_ROWS, MOST_BYTES_OF_ONE } from "./columns.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { MARKS } = PVIRTQ_DESC_F
const { IN, OUT } = VIRTIO_BLK_T
const [DESC_SIZE, HEADER] = [VIRTQ_DESC_SIZE, HEADER_SIZE] as const
const [ADDRESSES, MOST_BYTES] = [ADDRESSES_WITH_ROWS, MOST_BYTES_OF_ONE] as const
/** Header, data and status. */
const PIECES = 3
/** The flags of the data's descriptor in the upper half, of the status byte's in the lower. */
const FLAGS_OF_IN = ((NEXT | WRITE) << 16) | WRITE
const FLAGS_OF_OUT = (NEXT << 16) | WRITE

const NOWHERE = new RamRegion(0, new Uint8Array(0))

// Results of `takePacked`:

/** No chain waits. */
export const NONE = 0
/** The next chain has been taken. */
export const TAKEN = 1
/** The next chain is left to the slower paths. */
export const LEFT = 2

export class SingleRequest implements TakenChain {
  head = 0
  place = 0
  slots = 0
  /** The region that holds its buffers. */
  region = NOWHERE
  /** IN or OUT. */
  type: number = IN
  /** First sector. */
  sector = 0
  /** Byte offset of the data in the region, and length in bytes. */
  offset = 0
  length = 0
  /** Byte offset of the status byte in the region. */
  status = 0

  /**
   * Takes the next chain of `ring`, in which one waits. Returns false, without taking it, if it is not a usual request with one buffer.
   * `>>> 0` changes no number that is used, but without it V8 computes in doubles, because sums might have 33 bits.
   */
  takeSplit(ring: SplitChains, limits: RequestLimits): boolean {
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
    let next = links >>> 16
    if ((links & 0xffff) !== NEXT || next >= entries) return false
    const dataAt = (base + DESC_SIZE * next) >>> 0
    links = data.getUint32((dataAt + 12) >>> 0, true)
    next = links >>> 16
    if (next >= entries) return false
    const statusAt = (base + DESC_SIZE * next) >>> 0
    const flags = ((links & 0xffff) << 16) | data.getUint16((statusAt + 12) >>> 0, true)
    if (!this.#read(region, limits, at, dataAt, statusAt, flags)) return false
    ring.lastAvail = (lastAvail + 1) & 0xffff
    ring.inFlight++
    this.head = head
    return true
  }

  /**
   * `takeSplit` for a packed ring that has no chain in flight. It also checks whether a chain waits, and leaves the next chain if more than
   * one waits.
   *
   * Flags and ids are read as 16-bit words, as drivers store them: the processor cannot forward two pending stores to one load of both
   * (10 ns each, measured).
   */
  takePacked(ring: PackedChains, limits: RequestLimits): typeof NONE | typeof TAKEN | typeof LEFT {
    const { descriptors, size } = ring
    const { region, marks, slot, words } = descriptors
    const { data } = region
    const ringAt = descriptors.offset >>> 0
    let at = (ringAt + DESC_SIZE * slot) >>> 0
    // In shared RAM the first descriptor's flags are an acquire: later reads come after them.
    const first = words === undefined ? data.getUint16((at + 14) >>> 0, true) : Atomics.load(words, 8 * slot + 7)
    if ((first & MARKS) !== marks) return NONE
    if (region.end >= ADDRESSES) return LEFT
    const ringEnd = (ringAt + DESC_SIZE * size) >>> 0
    let end = (at + DESC_SIZE) >>> 0
    let endMarks = marks
    let idAt = (at + 12) >>> 0
    let dataAt = end
    let statusAt: number
    /** The data's flags in the upper half, the status byte's in the lower, without the expected marks. */
    let flags: number
    let slots = 1
    if (first === (NEXT | marks)) {
      if (size < PIECES) return LEFT
      slots = PIECES
      if (dataAt === ringEnd) {
        dataAt = ringAt
        endMarks ^= MARKS
      }
      flags = (data.getUint16((dataAt + 14) >>> 0, true) ^ endMarks) << 16
      statusAt = (dataAt + DESC_SIZE) >>> 0
      if (statusAt === ringEnd) {
        statusAt = ringAt
        endMarks ^= MARKS
      }
      flags |= data.getUint16((statusAt + 14) >>> 0, true) ^ endMarks
      idAt = (statusAt + 12) >>> 0
      end = (statusAt + DESC_SIZE) >>> 0
    } else {
      // An indirect table, in which only the flag WRITE counts.
      if ((first & ~WRITE) !== (INDIRECT | marks) || !descriptors.indirect || data.getUint32((at + 4) >>> 0, true) !== 0) return LEFT
      if (data.getUint32((at + 8) >>> 0, true) !== PIECES * DESC_SIZE) return LEFT
      const limit = (region.end - region.start) >>> 0
      at = (data.getUint32(at, true) - region.start) >>> 0
      if (at > limit || PIECES * DESC_SIZE > (limit - at) >>> 0 || (data.getUint16((at + 14) >>> 0, true) & WRITE) !== 0) return LEFT
      dataAt = (at + DESC_SIZE) >>> 0
      statusAt = (dataAt + DESC_SIZE) >>> 0
      flags = ((data.getUint16((dataAt + 14) >>> 0, true) & WRITE) | NEXT) << 16 | (data.getUint16((statusAt + 14) >>> 0, true) & WRITE)
    }
    if (end === ringEnd) {
      end = ringAt
      endMarks ^= MARKS
    }
    // Another chain waits after this one.
    if ((data.getUint16((end + 14) >>> 0, true) & MARKS) === endMarks) return LEFT
    if (!this.#read(region, limits, at, dataAt, statusAt, flags)) return LEFT
    this.head = data.getUint16(idAt, true)
    this.slots = slots
    this.place = ring.availPlace
    ring.availPlace += slots
    descriptors.slot = (end - ringAt) >>> 4
    descriptors.marks = endMarks
    return TAKEN
  }

  /**
   * Reads the request whose descriptors of header, data and status are at these offsets in `region`. `flags`: the data's in the upper half,
   * the status byte's in the lower. Returns false if the request is not usual.
   */
  #read(region: RamRegion, limits: RequestLimits, headerAt: number, dataAt: number, statusAt: number, flags: number): boolean {
    const { data } = region
    const start = region.start >>> 0
    const limit = (region.end - start) >>> 0
    // The header. An address before the region gives an offset beyond its end.
    if (data.getUint32((headerAt + 8) >>> 0, true) !== HEADER || data.getUint32((headerAt + 4) >>> 0, true) !== 0) return false
    const header = (data.getUint32(headerAt, true) - start) >>> 0
    if (header > limit || HEADER > (limit - header) >>> 0) return false
    const type = data.getUint32(header, true)
    const sector = data.getUint32((header + 8) >>> 0, true)
    if ((type !== IN && (type !== OUT || limits.readOnly)) || data.getUint32((header + 12) >>> 0, true) !== 0) return false
    // The data.
    if (flags !== (type === IN ? FLAGS_OF_IN : FLAGS_OF_OUT) || data.getUint32((dataAt + 4) >>> 0, true) !== 0) return false
    const offset = (data.getUint32(dataAt, true) - start) >>> 0
    const length = data.getUint32((dataAt + 8) >>> 0, true)
    if (offset > limit || length > (limit - offset) >>> 0 || length === 0 || length > MOST_BYTES) return false
    const capacity = limits.capacity < ADDRESSES ? limits.capacity >>> 0 : 0xffff_ffff
    if ((length & 511) !== 0 || sector > capacity || length >>> 9 > (capacity - sector) >>> 0) return false
    // The status byte.
    if (data.getUint32((statusAt + 8) >>> 0, true) !== 1 || data.getUint32((statusAt + 4) >>> 0, true) !== 0) return false
    const status = (data.getUint32(statusAt, true) - start) >>> 0
    if (status >= limit) return false
    // Storing an object costs several stores of a number.
    if (this.region !== region) this.region = region
    this.type = type
    this.sector = sector
    this.offset = offset
    this.length = length
    this.status = status
    return true
  }
}
