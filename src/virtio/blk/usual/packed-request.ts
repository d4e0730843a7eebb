/**
 * The usual request of a packed ring, read straight from its descriptors, as usual-request.ts does it for a split ring: IN or OUT, a
 * header of 16 bytes, 1 to 256 data descriptors and a status byte, direct or in one indirect table, all in the region of RAM that holds
 * the ring. It repeats checks of `PackedDescriptors.walk` and `parseRequest`; test/fuzz/usual-request.ts compares the two.
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

/**
 * Fills `request` from the next chain of the ring. Returns false when it is not of that kind, with nothing changed: then it is for the
 * general walk, which says what is wrong with it, if anything.
 */
export function readUsualPacked(request: BlkRequest, ring: PackedDescriptors): boolean {
  const { region, size, room } = ring
  const { data, start } = region
  const limit = region.end - start
  let slot = ring.slot
  let at = ring.offset + DESC_SIZE * slot
  let flags = data.getUint16(at + 14, true)
  // What an entry's flags are compared with, besides NEXT and WRITE: in a table only WRITE counts, and the end tells the last one.
  let marks = ring.marks
  let mask = 0xffff
  let next: number = NEXT
  let slots = 0
  let end = -1
  let id = 0
  if ((flags & ~WRITE) === (INDIRECT | marks)) {
    const bytes = data.getUint32(at + 8, true)
    id = data.getUint16(at + 12, true)
    const table = data.getUint32(at, true) - start
    if (!ring.indirect || data.getUint32(at + 4, true) !== 0 || table < 0 || bytes > limit - table) return false
    // The status byte's descriptor is the last one, and there is at least one of data.
    if (bytes < 3 * DESC_SIZE || bytes > (MAX_DATA_DESCRIPTORS + 2) * DESC_SIZE || (bytes & (DESC_SIZE - 1)) !== 0) return false
    at = table
    end = table + bytes
    flags = data.getUint16(at + 14, true) & WRITE
    marks = 0
    mask = WRITE
    next = 0
    slots = 1
  }
  const header = data.getUint32(at, true) - start
  if (flags !== (next | marks) || data.getUint32(at + 4, true) !== 0 || data.getUint32(at + 8, true) !== HEADER) return false
  if (header < 0 || header > limit - HEADER) return false
  const type = data.getUint32(header, true)
  if ((type !== IN && type !== OUT) || data.getUint32(header + 12, true) !== 0) return false
  const sector = data.getUint32(header + 8, true)
  const wanted = type === IN ? next | WRITE : next

  const { segments } = request
  const first = segments.count
  const regionIndex = segments.indexOf(region)
  let total = 0
  for (let count = 0; count <= MAX_DATA_DESCRIPTORS; count++) {
    at += DESC_SIZE
    if (end < 0 && ++slot === size) {
      slot = 0
      at = ring.offset
      marks ^= MARKS
    }
    flags = data.getUint16(at + 14, true) & mask
    const length = data.getUint32(at + 8, true)
    const offset = data.getUint32(at, true) - start
    if (data.getUint32(at + 4, true) !== 0 || offset < 0 || length > limit - offset || length === 0) break
    const isLast = end < 0 ? (flags & NEXT) === 0 : at + DESC_SIZE === end
    if (isLast) {
      if (end < 0) {
        slots = count + 2
        id = data.getUint16(at + 12, true)
      }
      if (flags !== (WRITE | marks) || length !== 1 || count === 0 || total > MAX_DATA_LENGTH || slots > room) break
      request.head = id
      request.slots = slots
      request.outcome = OK
      request.type = type
      request.sector = sector
      request.first = first
      request.count = count
      request.dataLength = total
      request.statusRegion = region
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
