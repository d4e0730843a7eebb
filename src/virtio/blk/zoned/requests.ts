/** The requests of zoned disks ([VIRTIO] 5.2.6): refusals, calls of the backing, and encoding. */
import type { Zone, ZoneAction, Zones, ZoneState, ZoneType } from "../../../backing/backing.ts"
import type { BlkRequest, RequestLimits } from "../request.ts"
import {
  APPEND_SECTOR_SIZE, type BlkStatus, SECTOR_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T, VIRTIO_BLK_ZS, VIRTIO_BLK_ZT, ZONE_DESCRIPTOR,
  ZONE_DESCRIPTOR_SIZE, ZONE_REPORT_HEADER_SIZE,
} from "../spec.ts"

const { OK, IOERR, UNSUPP, ZONE_INVALID_CMD } = VIRTIO_BLK_S
const { OUT, ZONE_APPEND, ZONE_REPORT, ZONE_OPEN, ZONE_CLOSE, ZONE_FINISH, ZONE_RESET, ZONE_RESET_ALL } = VIRTIO_BLK_T

/** The request types that change a zone's state, and the backing's names for them. */
const ACTIONS: ReadonlyMap<number, ZoneAction> = new Map([
  [ZONE_OPEN, "open"], [ZONE_CLOSE, "close"], [ZONE_FINISH, "finish"], [ZONE_RESET, "reset"],
])

const TYPES: Readonly<Record<ZoneType, number>> = {
  conventional: VIRTIO_BLK_ZT.CONV, "sequential-required": VIRTIO_BLK_ZT.SWR, "sequential-preferred": VIRTIO_BLK_ZT.SWP,
}
const STATES: Readonly<Record<ZoneState, number>> = {
  none: VIRTIO_BLK_ZS.NOT_WP, empty: VIRTIO_BLK_ZS.EMPTY, "implicitly-open": VIRTIO_BLK_ZS.IOPEN, "explicitly-open": VIRTIO_BLK_ZS.EOPEN,
  closed: VIRTIO_BLK_ZS.CLOSED, "read-only": VIRTIO_BLK_ZS.RDONLY, full: VIRTIO_BLK_ZS.FULL, offline: VIRTIO_BLK_ZS.OFFLINE,
}

/** Maximum of bytes of one append, which is one call of the backing. */
const MAX_APPEND_BYTES = 1 << 20
/** Maximum of zones in one report. A driver asks again for the rest. */
const MAX_REPORTED = 1024

/** Whether requests of `type` change the state of one zone or of all zones. */
export function isZoneManagement(type: number): boolean {
  return ACTIONS.has(type) || type === ZONE_RESET_ALL
}

/** Whether only zoned disks know `type`. */
export function isZoneRequest(type: number): boolean {
  return type === ZONE_APPEND || type === ZONE_REPORT || isZoneManagement(type)
}

/** Maximum of sectors of one append, for the configuration space. */
export function maxAppendSectors({ maxAppendSize }: Zones): number {
  return Math.floor(Math.min(maxAppendSize, MAX_APPEND_BYTES) / SECTOR_SIZE)
}

/** The status to refuse a request for zones with, or OK. */
export function zoneRefusal(request: BlkRequest, zones: Zones, { capacity, readOnly }: RequestLimits): BlkStatus {
  const { type, sector, dataLength } = request
  if (type === ZONE_REPORT) return sector < capacity && dataLength >= ZONE_REPORT_HEADER_SIZE ? OK : ZONE_INVALID_CMD
  if (readOnly) return IOERR
  if (type === ZONE_RESET_ALL) return OK
  if (type === ZONE_APPEND) {
    if (request.tail === undefined || dataLength % SECTOR_SIZE !== 0) return IOERR
    const most = maxAppendSectors(zones) * SECTOR_SIZE
    if (dataLength > most) return most === 0 ? UNSUPP : ZONE_INVALID_CMD
  }
  return sector < capacity && (sector * SECTOR_SIZE) % zones.zoneSize === 0 ? OK : ZONE_INVALID_CMD
}

/** Whether `request` may be repeated. A write to a sequential zone may not, because it has moved the write pointer. */
export function isRepeatable({ type, sector, dataLength }: BlkRequest, zones: Zones | undefined): boolean {
  if (zones === undefined || dataLength === 0 || (type !== OUT && type !== ZONE_APPEND)) return true
  return type === OUT && zones.report(sector * SECTOR_SIZE, 1)[0]?.type !== "sequential-required"
}

/** Asks the backing for the zones of a report, and encodes them as far as there is room. */
export function zoneReport(request: BlkRequest, zones: Zones): Uint8Array {
  const room = Math.floor((request.dataLength - ZONE_REPORT_HEADER_SIZE) / ZONE_DESCRIPTOR_SIZE)
  const wanted = Math.min(room, MAX_REPORTED)
  const reported = wanted > 0 ? zones.report(request.sector * SECTOR_SIZE, wanted).slice(0, wanted) : []
  const bytes = new Uint8Array(ZONE_REPORT_HEADER_SIZE + ZONE_DESCRIPTOR_SIZE * reported.length)
  const numbers = request.numbers(bytes)
  put64(numbers, 0, reported.length)
  for (const [index, zone] of reported.entries()) putZone(numbers, ZONE_REPORT_HEADER_SIZE + ZONE_DESCRIPTOR_SIZE * index, zone)
  return bytes
}

/** Executes a request for zone management. */
export function manageZones({ type, sector }: BlkRequest, zones: Zones): void | PromiseLike<void> {
  const action = ACTIONS.get(type)
  return action === undefined ? zones.resetAll() : zones.act(action, sector * SECTOR_SIZE)
}

/** append_sector, for data that the backing has put at byte `offset`. @throws TypeError for an impossible offset */
export function appendSector(request: BlkRequest, offset: unknown): Uint8Array {
  if (typeof offset !== "number" || !Number.isSafeInteger(offset) || offset < 0 || offset % SECTOR_SIZE !== 0) {
    throw new TypeError(`append of the backing's zones returned ${String(offset)}, which is not the offset of a sector`)
  }
  const bytes = new Uint8Array(APPEND_SECTOR_SIZE)
  put64(request.numbers(bytes), 0, offset / SECTOR_SIZE)
  return bytes
}

function putZone(numbers: DataView, at: number, { type, state, start, capacity, writePointer }: Zone): void {
  put64(numbers, at + ZONE_DESCRIPTOR.z_cap, Math.floor(capacity / SECTOR_SIZE))
  put64(numbers, at + ZONE_DESCRIPTOR.z_start, Math.floor(start / SECTOR_SIZE))
  put64(numbers, at + ZONE_DESCRIPTOR.z_wp, Math.floor(writePointer / SECTOR_SIZE))
  numbers.setUint8(at + ZONE_DESCRIPTOR.z_type, TYPES[type])
  numbers.setUint8(at + ZONE_DESCRIPTOR.z_state, STATES[state])
}

/** Zoned disks are for modern drivers, whose numbers are little-endian. */
function put64(numbers: DataView, at: number, value: number): void {
  numbers.setUint32(at, value % 2 ** 32, true)
  numbers.setUint32(at + 4, Math.floor(value / 2 ** 32), true)
}
