/**
 * The usual request of a packed ring, read straight from its descriptors, as split-request.ts does it for a split ring: IN or OUT, a
 * header of 16 bytes, 1 to 256 data descriptors and a status byte, direct or in one indirect table, all in the region of RAM that holds
 * the ring. It repeats checks of `PackedDescriptors.walk` and `parseRequest`; test/fuzz/usual compares the two.
 *
 * RAM may change while it is read: every word is read once.
 */
import { MARKS as WHOSE, type PackedDescriptors } from "../../queue/packed-descriptors.ts"
import { VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../../spec.ts"
import type { BlkRequest } from "../request.ts"
import { HEADER_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T } from "../spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { IN, OUT } = VIRTIO_BLK_T
const { OK } = VIRTIO_BLK_S
const [DESC_SIZE, HEADER, MARKS] = [VIRTQ_DESC_SIZE, HEADER_SIZE, WHOSE] as const

const MAX_DATA_DESCRIPTORS = 256
/** Sums of lengths stay small integers, far below the 2^32 bytes that a chain may have. */
const MAX_DATA_LENGTH = 2 ** 30 - 1

/** RAM below this address: addresses, offsets and lengths there have 32 bits. */
const ADDRESSES = 2 ** 32

/**
 * Fills `request` from the next chain of the ring. Returns false when it is not of that kind, with nothing changed: then it is for the
 * general walk, which says what is wrong with it, if anything. `>>> 0` changes no offset that is used: without it V8 computes offsets as
 * doubles, for their sums might have 33 bits (10 ns a request, measured).
 */
export function readUsualPacked(request: BlkRequest, ring: PackedDescriptors): boolean {
  const { region } = ring
  const { data } = region
  if (region.end >= ADDRESSES) return false
  const start = region.start >>> 0
  const limit = (region.end - start) >>> 0
  /** Where the last descriptor of the ring is, or in a table the last entry, which has the status. */
  let end = (ring.offset + DESC_SIZE * (ring.size - 1)) >>> 0
  let at = (ring.offset + DESC_SIZE * ring.slot) >>> 0
  let flags = data.getUint16((at + 14) >>> 0, true)
  // What flags are compared with: in a table only WRITE counts, and the end tells the last entry.
  let marks = ring.marks
  let next: number = NEXT
  let mask = 0xffff
  let id = -1
  if ((flags & ~WRITE) === (INDIRECT | marks)) {
    const bytes = data.getUint32((at + 8) >>> 0, true)
    const address = data.getUint32(at, true)
    const table = (address - start) >>> 0
    if (!ring.indirect || data.getUint32((at + 4) >>> 0, true) !== 0) return false
    // At least one entry of data between header and status.
    if (address < start || table > limit || bytes > limit - table || bytes < 3 * DESC_SIZE || (bytes & (DESC_SIZE - 1)) !== 0) return false
    id = data.getUint16((at + 12) >>> 0, true)
    at = table
    end = (table + bytes - DESC_SIZE) >>> 0
    flags = data.getUint16((at + 14) >>> 0, true) & WRITE
    marks = 0
    next = 0
    mask = WRITE
  }
  const headerAddress = data.getUint32(at, true)
  const header = (headerAddress - start) >>> 0
  if (flags !== (next | marks) || data.getUint32((at + 4) >>> 0, true) !== 0 || data.getUint32((at + 8) >>> 0, true) !== HEADER) {
    return false
  }
  if (headerAddress < start || header > limit || HEADER > limit - header) return false
  const type = data.getUint32(header, true)
  if ((type !== IN && type !== OUT) || data.getUint32((header + 12) >>> 0, true) !== 0) return false
  const sector = data.getUint32((header + 8) >>> 0, true)
  const wanted = type === IN ? next | WRITE : next

  const { segments } = request
  const first = segments.count
  const regionIndex = segments.indexOf(region)
  let total = 0
  for (let count = 0; count <= MAX_DATA_DESCRIPTORS; count++) {
    if (at !== end) at = (at + DESC_SIZE) >>> 0
    else if (id >= 0) break
    else {
      at = ring.offset >>> 0
      marks ^= MARKS
    }
    flags = data.getUint16((at + 14) >>> 0, true) & mask
    const length = data.getUint32((at + 8) >>> 0, true)
    const address = data.getUint32(at, true)
    const offset = (address - start) >>> 0
    if (data.getUint32((at + 4) >>> 0, true) !== 0 || address < start || offset > limit || length > limit - offset || length === 0) break
    const isLast = id >= 0 ? at === end : (flags & NEXT) === 0
    if (isLast) {
      const slots = id >= 0 ? 1 : count + 2
      if (flags !== (WRITE | marks) || length !== 1 || count === 0 || total > MAX_DATA_LENGTH || slots > ring.room) break
      request.head = id >= 0 ? id : data.getUint16((at + 12) >>> 0, true)
      request.slots = slots
      request.outcome = OK
      request.type = type
      request.sector = sector
      request.first = first
      request.count = count
      request.dataLength = total
      // A store of a pointer costs the collector's barrier.
      if (request.statusRegion !== region) request.statusRegion = region
      request.statusOffset = offset
      request.writableBefore = type === IN ? total : 0
      request.done = 0
      return true
    }
    if (flags !== (wanted | marks)) break
    segments.push(regionIndex, offset, length)
    total += length
  }
  segments.count = first
  return false
}
