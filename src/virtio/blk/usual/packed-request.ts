/** Reads usual requests of a packed ring straight from their descriptors, as split-request.ts does for a split ring. */
import { HEAD as HEAD_AT, ROW as ROW_SIZE, SLOTS as SLOTS_AT, WRITTEN as WRITTEN_AT } from "../../queue/chain-rows.ts"
import type { PackedChains } from "../../queue/ring.ts"
import { PVIRTQ_DESC_F, VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../../spec.ts"
import type { RequestLimits } from "../request.ts"
import { HEADER_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import {
  ADDRESSES_WITH_ROWS, KIND as KIND_AT, LENGTH as LENGTH_AT, MOST_BYTES_OF_ONE, MOST_SEGMENTS, MOST_USUAL_BYTES, OFFSET as OFFSET_AT,
  SECTOR as SECTOR_AT, STATUS as STATUS_AT,
} from "./columns.ts"
import type { UsualRequests } from "./requests.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { MARKS } = PVIRTQ_DESC_F
const { IN, OUT } = VIRTIO_BLK_T
const [DESC_SIZE, HEADER, ROW] = [VIRTQ_DESC_SIZE, HEADER_SIZE, ROW_SIZE] as const
const [HEAD, SLOTS, WRITTEN, KIND, SECTOR, OFFSET, LENGTH, STATUS] = [
  HEAD_AT, SLOTS_AT, WRITTEN_AT, KIND_AT, SECTOR_AT, OFFSET_AT, LENGTH_AT, STATUS_AT,
] as const
const [ADDRESSES, BATCH_BYTES, MOST_BYTES] = [ADDRESSES_WITH_ROWS, MOST_USUAL_BYTES, MOST_BYTES_OF_ONE] as const
/** Header, one buffer of data, and status. */
const PIECES = 3
/** Data descriptors that a request may have beyond the first. */
const MOST_MORE = MOST_SEGMENTS - 1
const DATA_WRITABLE = NEXT | WRITE

/**
 * Takes usual requests from `ring`, which has no chain in flight, up to the first unusual one, and `most` at most, like `takeSplit`.
 * `Ring.look` must have just seen the first chain.
 */
export function takePacked(requests: UsualRequests, ring: PackedChains, limits: RequestLimits, most: number): void {
  const { descriptors, size } = ring
  const { region, indirect, words } = descriptors
  const { data } = region
  const { rows, stretches } = requests
  if (requests.region !== region) requests.region = region
  stretches.clear(region)
  requests.place = ring.availPlace
  if (region.end >= ADDRESSES) return
  const start = region.start >>> 0
  const limit = (region.end - start) >>> 0
  const ringAt = descriptors.offset >>> 0
  const capacity = limits.capacity < ADDRESSES ? limits.capacity >>> 0 : 0xffff_ffff
  const lastType = limits.readOnly ? IN : OUT
  const ringEnd = (ringAt + DESC_SIZE * size) >>> 0
  let { marks } = descriptors
  /** Where the next chain begins. */
  let at = (ringAt + DESC_SIZE * descriptors.slot) >>> 0
  let bytes = 0
  let writes = 0
  let writeBytes = 0
  let neighbour = -1
  let previous = -1
  let taken = 0
  let slots = 0
  let isDrained = false
  const { usualSlots } = descriptors
  // In shared RAM, the number of chains whose flags are sure to be read before what follows, if each takes up `usualSlots` descriptors.
  let ordered = words === undefined ? most : ring.orderAhead(most)
  taking: for (; taken < most && bytes < BATCH_BYTES && stretches.isFull === false; taken++) {
    let flags = data.getUint16((at + 14) >>> 0, true)
    // Beyond that, the flags of an available chain are read again with an acquire, so that its descriptors are read after them.
    if (taken >= ordered && words !== undefined && (flags & MARKS) === marks) flags = Atomics.load(words, ((at - ringAt) >>> 1) + 7)
    if ((flags & MARKS) !== marks) {
      isDrained = true
      break
    }
    // Byte offsets of its first three descriptors, and the flags of the latter two without the expected marks.
    let headerAt = at
    let dataAt = (at + DESC_SIZE) >>> 0
    let dataFlags: number
    let statusAt: number
    let statusFlags: number
    let id: number
    let need = PIECES
    /** Descriptors of an indirect table after the one at `statusAt`. */
    let left = 0
    let next = dataAt
    let nextMarks = marks
    if (flags === (NEXT | marks)) {
      if (dataAt === ringEnd) {
        dataAt = ringAt
        nextMarks ^= MARKS
      }
      dataFlags = data.getUint16((dataAt + 14) >>> 0, true) ^ nextMarks
      statusAt = (dataAt + DESC_SIZE) >>> 0
      if (statusAt === ringEnd) {
        statusAt = ringAt
        nextMarks ^= MARKS
      }
      const last = data.getUint32((statusAt + 12) >>> 0, true)
      statusFlags = (last >>> 16) ^ nextMarks
      id = last & 0xffff
      next = (statusAt + DESC_SIZE) >>> 0
    } else {
      // An indirect table, in which only the flag WRITE counts.
      if ((flags & ~WRITE) !== (INDIRECT | marks) || !indirect || data.getUint32((at + 4) >>> 0, true) !== 0) break
      const table = data.getUint32((at + 8) >>> 0, true)
      left = (table >>> 4) - PIECES
      if (left < 0 || left > MOST_MORE || (table & (DESC_SIZE - 1)) !== 0) break
      id = data.getUint16((at + 12) >>> 0, true)
      headerAt = (data.getUint32(at, true) - start) >>> 0
      if (headerAt > limit || table > (limit - headerAt) >>> 0) break
      if ((data.getUint16((headerAt + 14) >>> 0, true) & WRITE) !== 0) break
      dataAt = (headerAt + DESC_SIZE) >>> 0
      dataFlags = (data.getUint16((dataAt + 14) >>> 0, true) & WRITE) | NEXT
      statusAt = (dataAt + DESC_SIZE) >>> 0
      statusFlags = (data.getUint16((statusAt + 14) >>> 0, true) & WRITE) | (left === 0 ? 0 : NEXT)
      need = 1
    }
    // The header. An address before the region gives an offset beyond its end.
    if (data.getUint32((headerAt + 8) >>> 0, true) !== HEADER || data.getUint32((headerAt + 4) >>> 0, true) !== 0) break
    const header = (data.getUint32(headerAt, true) - start) >>> 0
    if (header > limit || HEADER > (limit - header) >>> 0) break
    const type = data.getUint32(header, true)
    const sector = data.getUint32((header + 8) >>> 0, true)
    if ((type !== IN && type !== lastType) || data.getUint32((header + 12) >>> 0, true) !== 0) break
    // The data.
    if (dataFlags !== (type === IN ? DATA_WRITABLE : NEXT) || data.getUint32((dataAt + 4) >>> 0, true) !== 0) break
    let offset = (data.getUint32(dataAt, true) - start) >>> 0
    let length = data.getUint32((dataAt + 8) >>> 0, true)
    let count = 1
    if (offset > limit || length > (limit - offset) >>> 0 || length === 0 || length > MOST_BYTES) break
    if (statusFlags === dataFlags) {
      // The descriptor taken for the status is another buffer. Adjacent buffers are one stretch of RAM.
      stretches.begin(offset, length)
      do {
        if (!stretches.add(statusAt)) break taking
        statusAt = (statusAt + DESC_SIZE) >>> 0
        if (need === 1) {
          left--
          statusFlags = (data.getUint16((statusAt + 14) >>> 0, true) & WRITE) | (left === 0 ? 0 : NEXT)
          continue
        }
        need++
        if (statusAt === ringEnd) {
          statusAt = ringAt
          nextMarks ^= MARKS
        }
        const last = data.getUint32((statusAt + 12) >>> 0, true)
        statusFlags = (last >>> 16) ^ nextMarks
        id = last & 0xffff
        next = (statusAt + DESC_SIZE) >>> 0
      } while (statusFlags === dataFlags)
      count = stretches.end() >>> 0
      offset = (count === 1 ? stretches.offset : stretches.first) >>> 0
      length = stretches.length >>> 0
    }
    const sectors = length >>> 9
    if ((length & 511) !== 0 || sector > capacity || sectors > (capacity - sector) >>> 0) break
    // The status byte.
    if (statusFlags !== WRITE || data.getUint32((statusAt + 8) >>> 0, true) !== 1) break
    if (data.getUint32((statusAt + 4) >>> 0, true) !== 0) break
    const status = (data.getUint32(statusAt, true) - start) >>> 0
    if (status >= limit || slots + need > size) break
    if (next === ringEnd) {
      next = ringAt
      nextMarks ^= MARKS
    }
    const row = ROW * taken
    rows[row + HEAD] = id
    rows[row + SLOTS] = need
    rows[row + WRITTEN] = type === IN ? length + 1 : 1
    rows[row + KIND] = count === 1 ? type : type | (count << 1)
    rows[row + SECTOR] = sector
    rows[row + OFFSET] = offset
    rows[row + LENGTH] = length
    rows[row + STATUS] = status
    if (sector === previous && neighbour < 0 && type === ((rows[row - ROW + KIND] ?? 0) & 1)) neighbour = taken - 1
    previous = sector + sectors
    at = next
    marks = nextMarks
    slots += need
    if (need !== usualSlots) ordered = 0
    bytes += length
    if (type !== IN) {
      writes++
      writeBytes += length
    }
  }
  descriptors.slot = (at - ringAt) >>> 4
  descriptors.marks = marks
  if (taken > 1) descriptors.usualSlots = (slots / taken) >>> 0
  ring.availPlace += slots
  requests.isDrained = isDrained
  requests.isWhole = isDrained || taken === most || bytes >= BATCH_BYTES || stretches.isFull
  requests.neighbour = neighbour < 0 ? taken : neighbour
  requests.took(taken, bytes, writes, writeBytes)
}
