/**
 * Reads usual requests of a split ring straight from their descriptors, which costs a third of the general walk. It repeats checks of
 * `DescriptorTable.walk`, `parseRequest` and `transferRefusal`; test/fuzz/usual compares the results.
 *
 * RAM may change while it is read, so each word is read only once.
 */
import type { SplitChains } from "../../queue/ring.ts"
import { HEAD as HEAD_AT, ROW as ROW_SIZE, WRITTEN as WRITTEN_AT } from "../../queue/chain-rows.ts"
import { VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../../spec.ts"
import type { RequestLimits } from "../request.ts"
import { HEADER_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import {
  ADDRESSES_WITH_ROWS, KIND as KIND_AT, LENGTH as LENGTH_AT, MOST_BYTES_OF_ONE, MOST_USUAL_BYTES, OFFSET as OFFSET_AT, SECTOR as SECTOR_AT,
  STATUS as STATUS_AT,
} from "./columns.ts"
import type { UsualRequests } from "./requests.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { IN, OUT } = VIRTIO_BLK_T
const [DESC_SIZE, HEADER, ROW] = [VIRTQ_DESC_SIZE, HEADER_SIZE, ROW_SIZE] as const
const [HEAD, WRITTEN, KIND, SECTOR, OFFSET, LENGTH, STATUS] = [
  HEAD_AT, WRITTEN_AT, KIND_AT, SECTOR_AT, OFFSET_AT, LENGTH_AT, STATUS_AT,
] as const
const DATA_WRITABLE = NEXT | WRITE

const [ADDRESSES, BATCH_BYTES, MOST_BYTES] = [ADDRESSES_WITH_ROWS, MOST_USUAL_BYTES, MOST_BYTES_OF_ONE] as const

/**
 * Takes usual requests from `ring`, up to the first unusual one, and `most` at most. `>>> 0` changes no number that is used, but without it
 * V8 computes in doubles, because sums might have 33 bits.
 */
export function takeSplit(requests: UsualRequests, ring: SplitChains, limits: RequestLimits, most: number): void {
  const { table, avail, size, availIdx } = ring
  const { region, indirect } = table
  const { data } = region
  const { rows, stretches } = requests
  if (requests.region !== region) requests.region = region
  stretches.clear(region)
  if (region.end >= ADDRESSES) return
  const start = region.start >>> 0
  const limit = (region.end - start) >>> 0
  const tableAt = table.offset >>> 0
  const slotMask = size - 1
  const capacity = limits.capacity < ADDRESSES ? limits.capacity >>> 0 : 0xffff_ffff
  const lastType = limits.readOnly ? IN : OUT
  const { lastAvail } = ring
  const waiting = (availIdx - lastAvail) & 0xffff
  const room = size - ring.inFlight
  let end = waiting < most ? waiting : most
  if (room < end) end = room
  let bytes = 0
  let writes = 0
  let writeBytes = 0
  let neighbour = -1
  let previous = -1
  let taken = 0
  taking: for (; taken < end && bytes < BATCH_BYTES && stretches.isFull === false; taken++) {
    const head = avail.getUint16((4 + 2 * ((lastAvail + taken) & slotMask)) >>> 0, true)
    if (head >= size) break
    let base = tableAt
    let entries = size
    let at = (base + DESC_SIZE * head) >>> 0
    let links = data.getUint32((at + 12) >>> 0, true)
    if ((links & 0xffff) === INDIRECT) {
      const length = data.getUint32((at + 8) >>> 0, true)
      if (!indirect || data.getUint32((at + 4) >>> 0, true) !== 0) break
      base = (data.getUint32(at, true) - start) >>> 0
      if (base > limit || length > (limit - base) >>> 0 || length === 0 || (length & (DESC_SIZE - 1)) !== 0) break
      entries = length >>> 4
      at = base
      links = data.getUint32((at + 12) >>> 0, true)
    }
    // The header. An address before the region gives an offset beyond its end.
    if ((links & 0xffff) !== NEXT || data.getUint32((at + 8) >>> 0, true) !== HEADER || data.getUint32((at + 4) >>> 0, true) !== 0) break
    const header = (data.getUint32(at, true) - start) >>> 0
    let next = links >>> 16
    if (header > limit || HEADER > (limit - header) >>> 0 || next >= entries) break
    const type = data.getUint32(header, true)
    const sector = data.getUint32((header + 8) >>> 0, true)
    if ((type !== IN && type !== lastType) || data.getUint32((header + 12) >>> 0, true) !== 0) break
    // The data. Adjacent buffers are one stretch of RAM.
    const dataFlags = type === IN ? DATA_WRITABLE : NEXT
    at = (base + DESC_SIZE * next) >>> 0
    links = data.getUint32((at + 12) >>> 0, true)
    if ((links & 0xffff) !== dataFlags || data.getUint32((at + 4) >>> 0, true) !== 0) break
    let offset = (data.getUint32(at, true) - start) >>> 0
    let length = data.getUint32((at + 8) >>> 0, true)
    let count = 1
    next = links >>> 16
    if (offset > limit || length > (limit - offset) >>> 0 || length === 0 || length > MOST_BYTES || next >= entries) break
    at = (base + DESC_SIZE * next) >>> 0
    links = data.getUint32((at + 12) >>> 0, true)
    if ((links & 0xffff) === dataFlags) {
      stretches.begin(offset, length)
      do {
        next = links >>> 16
        if (next >= entries || !stretches.add(at)) break taking
        at = (base + DESC_SIZE * next) >>> 0
        links = data.getUint32((at + 12) >>> 0, true)
      } while ((links & 0xffff) === dataFlags)
      count = stretches.end() >>> 0
      offset = (count === 1 ? stretches.offset : stretches.first) >>> 0
      length = stretches.length >>> 0
    }
    const sectors = length >>> 9
    if ((length & 511) !== 0 || sector > capacity || sectors > (capacity - sector) >>> 0) break
    // The status byte.
    if ((links & 0xffff) !== WRITE || data.getUint32((at + 8) >>> 0, true) !== 1) break
    const status = (data.getUint32(at, true) - start) >>> 0
    if (data.getUint32((at + 4) >>> 0, true) !== 0 || status >= limit) break
    const row = ROW * taken
    rows[row + HEAD] = head
    rows[row + WRITTEN] = type === IN ? length + 1 : 1
    rows[row + KIND] = count === 1 ? type : type | (count << 1)
    rows[row + SECTOR] = sector
    rows[row + OFFSET] = offset
    rows[row + LENGTH] = length
    rows[row + STATUS] = status
    if (sector === previous && neighbour < 0 && type === ((rows[row - ROW + KIND] ?? 0) & 1)) neighbour = taken - 1
    previous = sector + sectors
    bytes += length
    if (type !== IN) {
      writes++
      writeBytes += length
    }
  }
  ring.lastAvail = (lastAvail + taken) & 0xffff
  ring.inFlight += taken
  requests.isDrained = taken === waiting
  requests.isWhole = taken === waiting || taken === most || bytes >= BATCH_BYTES || stretches.isFull
  requests.neighbour = neighbour < 0 ? taken : neighbour
  requests.took(taken, bytes, writes, writeBytes)
}
