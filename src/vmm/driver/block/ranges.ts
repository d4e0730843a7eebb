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

/** Cuts ranges into pieces of `maxSectors` at most, the pieces of each range in order. */
export function splitRanges(ranges: readonly SectorRange[], maxSectors: number): SectorRange[] {
  if (maxSectors < 1) throw new DriverError("protocol", "the device allows no sectors in a range")
  return ranges.flatMap(({ sector, sectors }) => {
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
