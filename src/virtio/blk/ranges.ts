/**
 * The segments of DISCARD, WRITE_ZEROES and SECURE_ERASE requests ([VIRTIO] 5.2.6): reads and checks them, and joins them into few ranges.
 */
import {
  MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_SECURE_ERASE_SECTORS, MAX_SECURE_ERASE_SEGMENTS, MAX_WRITE_ZEROES_SECTORS,
  MAX_WRITE_ZEROES_SEGMENTS,
} from "./config.ts"
import { type BlkRequest, copyNumbers, type DiskRange, readSector } from "./request.ts"
import { type BlkStatus, SECTOR_SIZE, SEGMENT_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T, VIRTIO_BLK_WRITE_ZEROES_F } from "./spec.ts"

/** One segment of a request. */
interface RangeSegment {
  readonly sector: number
  readonly sectors: number
  readonly flags: number
}

interface RangeLimits {
  readonly segments: number
  /** Maximum of sectors in one segment. */
  readonly sectors: number
  /** Known flags. */
  readonly flags: number
}

const { DISCARD, WRITE_ZEROES, SECURE_ERASE } = VIRTIO_BLK_T
export type RangeType = typeof DISCARD | typeof WRITE_ZEROES | typeof SECURE_ERASE

const LIMITS: Readonly<Record<RangeType, RangeLimits>> = {
  [DISCARD]: { segments: MAX_DISCARD_SEGMENTS, sectors: MAX_DISCARD_SECTORS, flags: 0 },
  [WRITE_ZEROES]: { segments: MAX_WRITE_ZEROES_SEGMENTS, sectors: MAX_WRITE_ZEROES_SECTORS, flags: VIRTIO_BLK_WRITE_ZEROES_F.UNMAP },
  [SECURE_ERASE]: { segments: MAX_SECURE_ERASE_SEGMENTS, sectors: MAX_SECURE_ERASE_SECTORS, flags: 0 },
}

/** Maximum of segments that are searched for unknown flags in a list that is too long, which may have megabytes. */
const MAX_JUDGED_SEGMENTS = 4096

/**
 * Reads the ranges of a request of `type` into `request.ranges`, once: the guest may change them. All segments are checked
 * before the first is executed, so a bad one leaves the disk unchanged. Returns the status to refuse the request with, or OK. `capacity`:
 * in sectors.
 */
export function readRanges(request: BlkRequest, type: RangeType, capacity: number): BlkStatus {
  const limits = LIMITS[type]
  if (request.dataLength % SEGMENT_SIZE !== 0) return VIRTIO_BLK_S.IOERR
  const count = request.dataLength / SEGMENT_SIZE
  const segments = readSegments(request, Math.min(count, MAX_JUDGED_SEGMENTS))
  // Unknown flags take precedence over other errors: UNSUPP ([VIRTIO] 5.2.6.2).
  if (segments.some(({ flags }) => (flags & ~limits.flags) !== 0)) return VIRTIO_BLK_S.UNSUPP
  const fits = ({ sector, sectors }: RangeSegment): boolean =>
    sectors <= limits.sectors && sector <= capacity && sectors <= capacity - sector
  if (count > limits.segments || !segments.every(fits)) return VIRTIO_BLK_S.IOERR
  request.ranges = joinRanges(segments)
  return VIRTIO_BLK_S.OK
}

/** Number of segments that `readRanges` checks in a request; 0 for a request of another type. */
export function judgedSegments({ type, dataLength }: BlkRequest): number {
  return type === DISCARD || type === WRITE_ZEROES || type === SECURE_ERASE ? Math.min(dataLength / SEGMENT_SIZE, MAX_JUDGED_SEGMENTS) : 0
}

/** Bytes of all ranges. */
export function rangesLength(ranges: readonly DiskRange[]): number {
  return ranges.reduce((sum, { length }) => sum + length, 0)
}

function readSegments(request: BlkRequest, count: number): RangeSegment[] {
  if (count === 0) return []
  const data = copyNumbers(request, count * SEGMENT_SIZE)
  return Array.from({ length: count }, (_, index) => ({
    sector: readSector(request, data, index * SEGMENT_SIZE),
    sectors: data.getUint32(index * SEGMENT_SIZE + 8, true),
    flags: data.getUint32(index * SEGMENT_SIZE + 12, true),
  }))
}

/**
 * The ranges in bytes, in the order of the request. Joins a segment to the one before if they are adjacent and agree on `mayUnmap`.
 */
function joinRanges(segments: readonly RangeSegment[]): DiskRange[] {
  const ranges: DiskRange[] = []
  for (const { sector, sectors, flags } of segments) {
    if (sectors === 0) continue
    const range = { offset: sector * SECTOR_SIZE, length: sectors * SECTOR_SIZE, mayUnmap: flags !== 0 }
    const last = ranges.at(-1)
    const continues = last !== undefined && last.offset + last.length === range.offset && last.mayUnmap === range.mayUnmap
    if (continues) ranges[ranges.length - 1] = { ...last, length: last.length + range.length }
    else ranges.push(range)
  }
  return ranges
}
