/** Which requests are refused before anything is done for them, and with which status ([VIRTIO] 5.2.6.2). */
import { MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SEGMENTS } from "./config.ts"
import type { BlkRequest } from "./request.ts"
import { type BlkStatus, SECTOR_SIZE, SEGMENT_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T, VIRTIO_BLK_WRITE_ZEROES_F } from "./spec.ts"

/** What a request is judged by. */
export interface RequestLimits {
  /** Sectors. */
  readonly capacity: number
  readonly readOnly: boolean
}

const DISCARD_LIMITS = { segments: MAX_DISCARD_SEGMENTS, sectors: MAX_DISCARD_SECTORS, flags: 0 } as const
const WRITE_ZEROES_LIMITS = { segments: MAX_WRITE_ZEROES_SEGMENTS, sectors: MAX_WRITE_ZEROES_SECTORS, flags: VIRTIO_BLK_WRITE_ZEROES_F.UNMAP } as const

/** Whether the data of an IN or OUT request is a whole number of sectors of the disk. */
export function transferRefusal(request: BlkRequest, limits: RequestLimits): BlkStatus {
  if (limits.readOnly && request.type === VIRTIO_BLK_T.OUT) return VIRTIO_BLK_S.IOERR
  const sectors = request.dataLength / SECTOR_SIZE
  // The remainder is in the low bits, however long the data is. Nothing is added to the sector, which may be anything up to 2^64, so nothing can wrap.
  const fits = (request.dataLength & (SECTOR_SIZE - 1)) === 0 && request.sector <= limits.capacity && sectors <= limits.capacity - request.sector
  return fits ? VIRTIO_BLK_S.OK : VIRTIO_BLK_S.IOERR
}

/** Whether the list of segments of a DISCARD or WRITE_ZEROES request is one that can be: a whole number of them, and not too many. */
export function rangeListRefusal(request: BlkRequest, limits: RequestLimits): BlkStatus {
  const { segments } = request.type === VIRTIO_BLK_T.DISCARD ? DISCARD_LIMITS : WRITE_ZEROES_LIMITS
  if (limits.readOnly || request.dataLength % SEGMENT_SIZE !== 0 || request.dataLength > segments * SEGMENT_SIZE) return VIRTIO_BLK_S.IOERR
  return VIRTIO_BLK_S.OK
}

/** All segments of a DISCARD or WRITE_ZEROES request are judged before any is acted upon: a bad one leaves the disk as it was. */
export function rangeRefusal(request: BlkRequest, limits: RequestLimits): BlkStatus {
  const allowed = request.type === VIRTIO_BLK_T.DISCARD ? DISCARD_LIMITS : WRITE_ZEROES_LIMITS
  if (request.ranges.some(({ flags }) => (flags & ~allowed.flags) !== 0)) return VIRTIO_BLK_S.UNSUPP
  const { capacity } = limits
  const fits = request.ranges.every(({ sector, sectors }) => sectors <= allowed.sectors && sector <= capacity && sectors <= capacity - sector)
  return fits ? VIRTIO_BLK_S.OK : VIRTIO_BLK_S.IOERR
}
