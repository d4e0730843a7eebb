/**
 * The usual request, read straight from its descriptors, which costs half of the general walk: IN or OUT, a header of 16 bytes, 1 to 256
 * data descriptors and a status byte, direct or in one indirect table, all in the region of RAM that holds the descriptor table. It
 * repeats checks of `DescriptorTable.walk` and `parseRequest`; test/fuzz/usual compares the two.
 *
 * RAM may change while it is read: every word is read once.
 */
import type { DescriptorTable } from "../../queue/descriptor-table.ts"
import { VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../../spec.ts"
import type { BlkRequest } from "../request.ts"
import { HEADER_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T } from "../spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { IN, OUT } = VIRTIO_BLK_T
const { OK } = VIRTIO_BLK_S
const [DESC_SIZE, HEADER] = [VIRTQ_DESC_SIZE, HEADER_SIZE] as const
const DATA_WRITABLE = NEXT | WRITE

const MAX_DATA_DESCRIPTORS = 256
/** Sums of lengths stay small integers, far below the 2^32 bytes that a chain may have. */
const MAX_DATA_LENGTH = 2 ** 30 - 1
/** RAM below this address: addresses, offsets and lengths there have 32 bits. */
const ADDRESSES = 2 ** 32

/**
 * Fills `request` from the chain at `head`. Returns false when the chain is not of that kind, with nothing changed: then it is for the
 * general walk, which says what is wrong with it, if anything. `>>> 0` changes no offset that is used: without it V8 computes offsets as
 * doubles, for their sums might have 33 bits (10 ns a request, measured).
 */
export function readUsual(request: BlkRequest, table: DescriptorTable, head: number): boolean {
  const { region, size } = table
  const { data } = region
  if (head >= size || region.end >= ADDRESSES) return false
  const start = region.start >>> 0
  const limit = (region.end - start) >>> 0
  let base = table.offset >>> 0
  let entries = size
  let at = (base + DESC_SIZE * head) >>> 0
  let flags = data.getUint16((at + 12) >>> 0, true)
  if (flags === INDIRECT) {
    const bytes = data.getUint32((at + 8) >>> 0, true)
    const address = data.getUint32(at, true)
    base = (address - start) >>> 0
    if (!table.indirect || data.getUint32((at + 4) >>> 0, true) !== 0) return false
    if (address < start || base > limit || bytes > limit - base || bytes === 0 || (bytes & (DESC_SIZE - 1)) !== 0) return false
    entries = bytes >>> 4
    at = base
    flags = data.getUint16((at + 12) >>> 0, true)
  }
  const headerAddress = data.getUint32(at, true)
  const header = (headerAddress - start) >>> 0
  if (flags !== NEXT || data.getUint32((at + 4) >>> 0, true) !== 0 || data.getUint32((at + 8) >>> 0, true) !== HEADER) return false
  if (headerAddress < start || header > limit || HEADER > limit - header) return false
  const type = data.getUint32(header, true)
  if ((type !== IN && type !== OUT) || data.getUint32((header + 12) >>> 0, true) !== 0) return false
  const sector = data.getUint32((header + 8) >>> 0, true)
  const wanted = type === IN ? DATA_WRITABLE : NEXT

  const { segments } = request
  const first = segments.count
  const regionIndex = segments.indexOf(region)
  let total = 0
  for (let count = 0; count <= MAX_DATA_DESCRIPTORS; count++) {
    const next = data.getUint16((at + 14) >>> 0, true)
    if (next >= entries) break
    at = (base + DESC_SIZE * next) >>> 0
    flags = data.getUint16((at + 12) >>> 0, true)
    const length = data.getUint32((at + 8) >>> 0, true)
    const address = data.getUint32(at, true)
    const offset = (address - start) >>> 0
    if (data.getUint32((at + 4) >>> 0, true) !== 0 || address < start || offset > limit || length > limit - offset || length === 0) break
    if (flags === WRITE && length === 1 && count > 0 && total <= MAX_DATA_LENGTH) {
      request.head = head
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
    if (flags !== wanted) break
    segments.push(regionIndex, offset, length)
    total += length
  }
  segments.count = first
  return false
}
