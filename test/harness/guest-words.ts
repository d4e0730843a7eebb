/** What a guest knows of virtio: numbers typed from the specification, the bytes of requests, and data to recognise sectors by. */

/** Feature bits: [VIRTIO] 5.2.3, 5.2.3.1, 6 and 6.3. */
export const F = {
  BARRIER: 0, SIZE_MAX: 1, SEG_MAX: 2, GEOMETRY: 4, RO: 5, BLK_SIZE: 6, SCSI: 7, FLUSH: 9, TOPOLOGY: 10, CONFIG_WCE: 11, MQ: 12, DISCARD: 13, WRITE_ZEROES: 14,
  LIFETIME: 15, SECURE_ERASE: 16, ZONED: 17, NOTIFY_ON_EMPTY: 24, ANY_LAYOUT: 27, INDIRECT_DESC: 28, EVENT_IDX: 29, VERSION_1: 32, RING_PACKED: 34, IN_ORDER: 35,
  NOTIFICATION_DATA: 38, RING_RESET: 40,
} as const
/** Descriptor flags: [VIRTIO] 2.7.5. */
export const NEXT = 1
export const WRITE = 2
export const INDIRECT = 4
/** Request types: [VIRTIO] 5.2.6. */
export const T = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, GET_LIFETIME: 10, DISCARD: 11, WRITE_ZEROES: 13, SECURE_ERASE: 14 } as const
/** Status bytes: [VIRTIO] 5.2.6. */
export const OK = 0
export const IOERR = 1
export const UNSUPP = 2
/** What a status byte holds before the device has written it. */
export const UNTOUCHED = 0xee
/** Device status: [VIRTIO] 2.1. */
export const NEEDS_RESET = 0x40

/** Configuration changes interrupt with this MSI-X message, queue q with 1 + q. */
export const CONFIG_IRQ = 0

/** A stretch of guest RAM in a chain. */
export interface Piece {
  readonly address: number | bigint
  readonly length: number
  readonly writable: boolean
}

export interface Request {
  readonly type: number
  readonly sector?: number | bigint
  /** The word that was ioprio once. */
  readonly reserved?: number
  /** Readable data, behind the header. */
  readonly out?: Uint8Array
  /** Bytes of writable data, before the status. */
  readonly in?: number
}

/** The 16 bytes before the data: le32 type, le32 reserved, le64 sector. */
export function header(request: Request): Uint8Array {
  const bytes = new Uint8Array(16)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, request.type, true)
  view.setUint32(4, request.reserved ?? 0, true)
  view.setBigUint64(8, BigInt(request.sector ?? 0), true)
  return bytes
}

/** Segments of DISCARD and WRITE_ZEROES: le64 sector, le32 num_sectors, le32 flags, each. */
export function ranges(...segments: readonly { readonly sector: number | bigint; readonly sectors: number; readonly flags?: number }[]): Uint8Array {
  const bytes = new Uint8Array(16 * segments.length)
  const view = new DataView(bytes.buffer)
  for (const [at, { sector, sectors, flags }] of segments.entries()) {
    view.setBigUint64(16 * at, BigInt(sector), true)
    view.setUint32(16 * at + 8, sectors, true)
    view.setUint32(16 * at + 12, flags ?? 0, true)
  }
  return bytes
}

/** `count` sectors whose bytes say which sector they are of. */
export function pattern(first: number, count: number, salt = 0): Uint8Array {
  return Uint8Array.from({ length: 512 * count }, (_, at) => (((first + Math.floor(at / 512)) * 7 + (at % 512) + salt) % 251) + 1)
}
