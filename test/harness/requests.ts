/** Block requests as bytes ([VIRTIO] 5.2.6), and data that identify their sector. */

export interface Request {
  readonly type: number
  readonly sector?: number | bigint
  /** The word that used to be ioprio. */
  readonly reserved?: number
  /** Readable data, after the header. */
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
export function ranges(
  ...segments: readonly { readonly sector: number | bigint; readonly sectors: number; readonly flags?: number }[]
): Uint8Array {
  const bytes = new Uint8Array(16 * segments.length)
  const view = new DataView(bytes.buffer)
  for (const [at, { sector, sectors, flags }] of segments.entries()) {
    view.setBigUint64(16 * at, BigInt(sector), true)
    view.setUint32(16 * at + 8, sectors, true)
    view.setUint32(16 * at + 12, flags ?? 0, true)
  }
  return bytes
}

/** The data of `count` sectors from `first` on, which differ between sectors. */
export function pattern(first: number, count: number, salt = 0): Uint8Array {
  return Uint8Array.from({ length: 512 * count }, (_, at) => (((first + Math.floor(at / 512)) * 7 + (at % 512) + salt) % 251) + 1)
}
