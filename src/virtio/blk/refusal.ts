/** Refuses requests before any call of the backing ([VIRTIO] 5.2.6.2). */
import type { Negotiation } from "../negotiation.ts"
import { type RangeType, readRanges } from "./ranges.ts"
import type { BlkRequest, RequestLimits } from "./request.ts"
import { type BlkStatus, SECTOR_SIZE, VIRTIO_BLK_F, VIRTIO_BLK_S, VIRTIO_BLK_T } from "./spec.ts"
import type { ZonedConfig } from "./zoned/config.ts"
import { isZoneRequest, zoneRefusal } from "./zoned/requests.ts"

/** The features that the driver has accepted. */
export interface Accepted {
  readonly device: { readonly negotiation: Pick<Negotiation, "isNegotiated"> }
  readonly zoned: Pick<ZonedConfig, "isNegotiated">
}

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { OK, IOERR, UNSUPP } = VIRTIO_BLK_S
const { IN, OUT, FLUSH, GET_ID, GET_LIFETIME, DISCARD, WRITE_ZEROES, SECURE_ERASE } = VIRTIO_BLK_T
const SECTOR = SECTOR_SIZE

/** The status to refuse `request` with, or OK. */
export function refusalOf(request: BlkRequest, disk: RequestLimits, accepted: Accepted): BlkStatus {
  switch (request.type) {
    case IN:
    case OUT:
      return transferRefusal(request, disk)
    case FLUSH:
    case GET_ID:
      return OK
    default:
      return otherRefusal(request, disk, accepted)
  }
}

/** The status to refuse an IN or OUT request with, unless its data are whole sectors inside the disk. */
export function transferRefusal(request: BlkRequest, limits: RequestLimits): BlkStatus {
  if (limits.readOnly && request.type === OUT) return IOERR
  const { dataLength, sector } = request
  const { capacity } = limits
  // The low bits have the remainder for any length. Nothing is added to `sector`, which may be up to 2^64, so nothing can be rounded.
  const fits = (dataLength & (SECTOR - 1)) === 0 && sector <= capacity && dataLength <= (capacity - sector) * SECTOR
  return fits ? OK : IOERR
}

/** The status to refuse other requests with, most of which need a feature. */
function otherRefusal(request: BlkRequest, disk: RequestLimits, { device: { negotiation }, zoned }: Accepted): BlkStatus {
  const { type } = request
  const rangeRefusal = (range: RangeType, feature: number): BlkStatus => {
    if (disk.readOnly) return IOERR
    return negotiation.isNegotiated(feature) ? readRanges(request, range, disk.capacity) : UNSUPP
  }
  if (type === DISCARD) return rangeRefusal(type, VIRTIO_BLK_F.DISCARD)
  if (type === WRITE_ZEROES) return rangeRefusal(type, VIRTIO_BLK_F.WRITE_ZEROES)
  if (type === SECURE_ERASE) return rangeRefusal(type, VIRTIO_BLK_F.SECURE_ERASE)
  if (type === GET_LIFETIME) return negotiation.isNegotiated(VIRTIO_BLK_F.LIFETIME) ? OK : UNSUPP
  const { zones } = disk
  return zones !== undefined && isZoneRequest(type) && zoned.isNegotiated ? zoneRefusal(request, zones, disk) : UNSUPP
}
