/** Usual requests of a packed ring, read straight from their descriptors: as split-request.ts, of the other format. */
import { HEAD as HEAD_AT, ROW as ROW_SIZE, SLOTS as SLOTS_AT, WRITTEN as WRITTEN_AT } from "../../queue/chain-rows.ts"
import { MARKS as BOTH_MARKS } from "../../queue/packed-descriptors.ts"
import type { PackedRows } from "../../queue/ring.ts"
import { VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../../spec.ts"
import type { RequestLimits } from "../request.ts"
import { HEADER_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import {
  ADDRESSES_WITH_ROWS, LENGTH as LENGTH_AT, MOST_BYTES_OF_ONE, MOST_USUAL_BYTES, OFFSET as OFFSET_AT, SECTOR as SECTOR_AT,
  STATUS as STATUS_AT, TYPE as TYPE_AT,
} from "./columns.ts"
import type { UsualRequests } from "./requests.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { IN, OUT } = VIRTIO_BLK_T
const [DESC_SIZE, HEADER, MARKS, ROW] = [VIRTQ_DESC_SIZE, HEADER_SIZE, BOTH_MARKS, ROW_SIZE] as const
const [HEAD, SLOTS, WRITTEN, TYPE, SECTOR, OFFSET, LENGTH, STATUS] = [
  HEAD_AT, SLOTS_AT, WRITTEN_AT, TYPE_AT, SECTOR_AT, OFFSET_AT, LENGTH_AT, STATUS_AT,
] as const
const [ADDRESSES, BATCH_BYTES, MOST_BYTES] = [ADDRESSES_WITH_ROWS, MOST_USUAL_BYTES, MOST_BYTES_OF_ONE] as const
/** Header, data and status. */
const PIECES = 3

/** Takes usual requests from `ring`, of which none is in flight, up to the first that is another, or `most`. As `takeSplit`. */
export function takePacked(requests: UsualRequests, ring: PackedRows, limits: RequestLimits, most: number): void {
  const { descriptors, size } = ring
  const { region, indirect, words } = descriptors
  const { data } = region
  const { rows } = requests
  requests.region = region
  requests.place = ring.availPlace
  if (region.end >= ADDRESSES) return
  const start = region.start >>> 0
  const limit = (region.end - start) >>> 0
  const ringAt = descriptors.offset >>> 0
  const capacity = limits.capacity < ADDRESSES ? limits.capacity >>> 0 : 0xffff_ffff
  const lastType = limits.readOnly ? IN : OUT
  let { slot, marks } = descriptors
  let bytes = 0
  let writes = 0
  let writeBytes = 0
  let neighbour = -1
  let previous = -1
  let taken = 0
  let slots = 0
  let isDrained = false
  for (; taken < most && bytes < BATCH_BYTES; taken++) {
    let at = (ringAt + DESC_SIZE * slot) >>> 0
    // In shared RAM nothing that follows is read before.
    let flags = words === undefined ? data.getUint16((at + 14) >>> 0, true) : Atomics.load(words, 8 * slot + 7)
    if ((flags & MARKS) !== marks) {
      isDrained = true
      break
    }
    /** Of the last descriptor: the ring's, or the table's, whose flags say less. */
    let nextSlot = slot
    let nextMarks = marks
    let id = 0
    const isIndirect = (flags & ~WRITE) === (INDIRECT | marks)
    let need = PIECES
    if (isIndirect) {
      id = data.getUint16((at + 12) >>> 0, true)
      if (!indirect || data.getUint32((at + 4) >>> 0, true) !== 0 || data.getUint32((at + 8) >>> 0, true) !== PIECES * DESC_SIZE) break
      at = (data.getUint32(at, true) - start) >>> 0
      if (at > limit || PIECES * DESC_SIZE > (limit - at) >>> 0) break
      flags = (data.getUint16((at + 14) >>> 0, true) & WRITE) | NEXT | marks
      need = 1
      nextSlot++
    }
    if (slots + need > size) break
    // The header. An address before the region makes an offset beyond its end.
    if (flags !== (NEXT | marks) || data.getUint32((at + 8) >>> 0, true) !== HEADER || data.getUint32((at + 4) >>> 0, true) !== 0) break
    const header = (data.getUint32(at, true) - start) >>> 0
    if (header > limit || HEADER > (limit - header) >>> 0) break
    const type = data.getUint32(header, true)
    const sector = data.getUint32((header + 8) >>> 0, true)
    if ((type !== IN && type !== lastType) || data.getUint32((header + 12) >>> 0, true) !== 0) break
    // The data.
    if (isIndirect) {
      at = (at + DESC_SIZE) >>> 0
      flags = (data.getUint16((at + 14) >>> 0, true) & WRITE) | NEXT | marks
    } else {
      nextSlot++
      if (nextSlot === size) {
        nextSlot = 0
        nextMarks ^= MARKS
      }
      at = (ringAt + DESC_SIZE * nextSlot) >>> 0
      flags = data.getUint16((at + 14) >>> 0, true)
    }
    if (flags !== ((type === IN ? WRITE | NEXT : NEXT) | nextMarks) || data.getUint32((at + 4) >>> 0, true) !== 0) break
    const offset = (data.getUint32(at, true) - start) >>> 0
    const length = data.getUint32((at + 8) >>> 0, true)
    if (offset > limit || length > (limit - offset) >>> 0 || length === 0 || length > MOST_BYTES) break
    const sectors = length >>> 9
    if ((length & 511) !== 0 || sector > capacity || sectors > (capacity - sector) >>> 0) break
    // The status byte.
    if (isIndirect) {
      at = (at + DESC_SIZE) >>> 0
      flags = (data.getUint16((at + 14) >>> 0, true) & WRITE) | marks
    } else {
      nextSlot++
      if (nextSlot === size) {
        nextSlot = 0
        nextMarks ^= MARKS
      }
      at = (ringAt + DESC_SIZE * nextSlot) >>> 0
      const last = data.getUint32((at + 12) >>> 0, true)
      flags = last >>> 16
      id = last & 0xffff
      nextSlot++
    }
    if (flags !== (WRITE | nextMarks) || data.getUint32((at + 8) >>> 0, true) !== 1 || data.getUint32((at + 4) >>> 0, true) !== 0) break
    const status = (data.getUint32(at, true) - start) >>> 0
    if (status >= limit) break
    if (nextSlot === size) {
      nextSlot = 0
      nextMarks ^= MARKS
    }
    const row = ROW * taken
    rows[row + HEAD] = id
    rows[row + SLOTS] = need
    rows[row + WRITTEN] = type === IN ? length + 1 : 1
    rows[row + TYPE] = type
    rows[row + SECTOR] = sector
    rows[row + OFFSET] = offset
    rows[row + LENGTH] = length
    rows[row + STATUS] = status
    if (sector === previous && neighbour < 0 && type === rows[row - ROW + TYPE]) neighbour = taken - 1
    previous = sector + sectors
    slot = nextSlot
    marks = nextMarks
    slots += need
    bytes += length
    if (type !== IN) {
      writes++
      writeBytes += length
    }
  }
  descriptors.slot = slot
  descriptors.marks = marks
  ring.availPlace += slots
  requests.isDrained = isDrained
  requests.isWhole = isDrained || taken === most || bytes >= BATCH_BYTES
  requests.neighbour = neighbour < 0 ? taken : neighbour
  requests.took(taken, bytes, writes, writeBytes)
}
