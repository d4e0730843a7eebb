/**
 * Ranges of sectors, as DISCARD, WRITE_ZEROES and SECURE_ERASE carry them. [VIRTIO] 5.2.6.
 */
import { BLK_RANGE } from "./spec.ts"
import { DriverError } from "../errors.ts"
import type { Endian } from "../guest-ram.ts"

/** Sectors for `discard`, `writeZeroes` and `secureErase`. */
export interface SectorRange {
  /** A bigint where it is beyond 2^53. */
  readonly sector: number | bigint
  readonly sectors: number
}

/** The field for a sector has 64 bits. */
const SECTORS_END = 2n ** 64n

/**
 * Cuts ranges into pieces of `maxSectors` at most, the pieces of each range in order.
 * @throws RangeError for numbers that are no range: what they stand for would not be done, or to other sectors
 */
export function splitRanges(ranges: readonly SectorRange[], maxSectors: number): SectorRange[] {
  if (maxSectors < 1) throw new DriverError("protocol", "the device allows no sectors in a range")
  return ranges.flatMap((range) => {
    checkRange(range)
    const { sector, sectors } = range
    const pieces: SectorRange[] = []
    for (let done = 0; done < sectors; done += maxSectors) {
      pieces.push({
        sector: typeof sector === "bigint" ? sector + BigInt(done) : sector + done,
        sectors: Math.min(maxSectors, sectors - done),
      })
    }
    return pieces
  })
}

function checkRange({ sector, sectors }: SectorRange): void {
  if (!Number.isSafeInteger(sectors) || sectors < 0) throw new RangeError(`a range cannot have ${sectors} sectors`)
  const isSector = typeof sector === "bigint" ? sector >= 0n : Number.isSafeInteger(sector) && sector >= 0
  if (!isSector) throw new RangeError(`sector ${sector} is not a whole number from 0 up`)
  if (BigInt(sector) + BigInt(sectors) > SECTORS_END) {
    throw new RangeError(`${sectors} sectors from ${sector} on do not end before sector 2^64`)
  }
}

/** An array of struct virtio_blk_discard_write_zeroes, each with the same 32 bits of `flags`, in the order of the guest. */
export function encodeRanges(ranges: readonly SectorRange[], flags = 0, endian: Endian = "little"): Uint8Array {
  const isLittle = endian === "little"
  const bytes = new Uint8Array(ranges.length * BLK_RANGE.SIZE)
  const view = new DataView(bytes.buffer)
  ranges.forEach(({ sector, sectors }, index) => {
    const at = index * BLK_RANGE.SIZE
    view.setBigUint64(at + BLK_RANGE.SECTOR, BigInt(sector), isLittle)
    view.setUint32(at + BLK_RANGE.NUM_SECTORS, sectors, isLittle)
    view.setUint32(at + BLK_RANGE.FLAGS, flags, isLittle)
  })
  return bytes
}

/** What a request for ranges may hold. */
export interface RangeLimits {
  /** Sectors of one range. */
  readonly maxSectors: number
  readonly maxRanges: number
}

/** The data of the requests that it takes for `ranges`. */
export function encodeRequests(ranges: readonly SectorRange[], limits: RangeLimits, flags: number, endian: Endian): Uint8Array[] {
  const pieces = splitRanges(ranges, limits.maxSectors)
  const perRequest = Math.max(1, limits.maxRanges)
  const count = Math.ceil(pieces.length / perRequest)
  return Array.from({ length: count }, (_, index) => {
    return encodeRanges(pieces.slice(index * perRequest, (index + 1) * perRequest), flags, endian)
  })
}
