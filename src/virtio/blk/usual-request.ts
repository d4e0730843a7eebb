/**
 * The usual request, read straight from its descriptors, which costs half of the general walk: IN or OUT, a header of 16 bytes, 1 to 256
 * data descriptors and a status byte, direct or in one indirect table, all in the region of RAM that holds the descriptor table. It
 * repeats checks of `DescriptorTable.walk` and `parseRequest`; test/fuzz/usual-request.ts compares the two.
 *
 * RAM may change while it is read: every word is read once.
 */
import type { DescriptorTable } from "../queue/descriptor-table.ts"
import { VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../spec.ts"
import type { BlkRequest } from "./request.ts"
import { HEADER_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T } from "./spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { IN, OUT } = VIRTIO_BLK_T
const { OK } = VIRTIO_BLK_S
const [DESC_SIZE, HEADER] = [VIRTQ_DESC_SIZE, HEADER_SIZE] as const
const DATA_WRITABLE = NEXT | WRITE

const MAX_DATA_DESCRIPTORS = 256
/** Sums of lengths stay small integers, far below the 2^32 bytes that a chain may have. */
const MAX_DATA_LENGTH = 2 ** 30 - 1

/**
 * Fills `request` from the chain at `head`. Returns false when the chain is not of that kind, with nothing changed: then it is for the
 * general walk, which says what is wrong with it, if anything.
 */
export function readUsual(request: BlkRequest, table: DescriptorTable, head: number): boolean {
  const { region, size } = table
  const { data, start } = region
  const limit = region.end - start
  if (head >= size) return false
  let base = table.offset
  let entries = size
  let at = base + DESC_SIZE * head
  let flags = data.getUint16(at + 12, true)
  if (flags === INDIRECT) {
    const bytes = data.getUint32(at + 8, true)
    base = data.getUint32(at, true) - start
    if (!table.indirect || data.getUint32(at + 4, true) !== 0 || base < 0 || bytes > limit - base) return false
    if (bytes === 0 || (bytes & (DESC_SIZE - 1)) !== 0) return false
    entries = bytes >>> 4
    at = base
    flags = data.getUint16(at + 12, true)
  }
  const header = data.getUint32(at, true) - start
  if (flags !== NEXT || data.getUint32(at + 4, true) !== 0 || data.getUint32(at + 8, true) !== HEADER) return false
  if (header < 0 || header > limit - HEADER) return false
  const type = data.getUint32(header, true)
  if ((type !== IN && type !== OUT) || data.getUint32(header + 12, true) !== 0) return false
  const sector = data.getUint32(header + 8, true)
  const wanted = type === IN ? DATA_WRITABLE : NEXT

  const { segments } = request
  const first = segments.count
  const regionIndex = segments.indexOf(region)
  let total = 0
  for (let count = 0; count <= MAX_DATA_DESCRIPTORS; count++) {
    const next = data.getUint16(at + 14, true)
    if (next >= entries) break
    at = base + DESC_SIZE * next
    flags = data.getUint16(at + 12, true)
    const length = data.getUint32(at + 8, true)
    const offset = data.getUint32(at, true) - start
    if (data.getUint32(at + 4, true) !== 0 || offset < 0 || length > limit - offset || length === 0) break
    if (flags === WRITE && length === 1 && count > 0 && total <= MAX_DATA_LENGTH) {
      request.head = head
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
    if (flags !== wanted) break
    segments.push(regionIndex, offset, length)
    total += length
  }
  segments.count = first
  return false
}
