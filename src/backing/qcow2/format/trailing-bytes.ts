/**
 * Bytes behind the last cluster in use that some program has appended to the file. The format says nothing of them, other programs
 * overwrite them, and their owner looks for them at the end of the file.
 */
import { roundUp } from "./bytes.ts"

/**
 * So many bytes at the end of the file may be somebody's; what is before them is not kept. A crash leaves clusters that nothing refers to,
 * and they look the same: they are kept too, so this is what they waste.
 */
export const MOST_TRAILING = 4 * 1024 * 1024

/** Bytes and where they are. */
export interface TrailingBytes {
  readonly offset: number
  readonly bytes: Uint8Array
}

export interface TrailingRange {
  /** Byte where the last cluster in use ends. */
  readonly from: number
  /** Byte where the active L1 table ends: it is the last of a new image of QEMU, whose file ends with it, inside of a cluster. */
  readonly l1End: number
  /** Byte where the file ends. */
  readonly to: number
  readonly clusterSize: number
}

/** The bytes behind what the image uses; undefined for zeroes only. Whole clusters of zeroes before the rest are left out. */
export function readTrailingBytes(
  file: { read(buffer: Uint8Array, offset: number): unknown }, { from, l1End, to, clusterSize }: TrailingRange,
): TrailingBytes | undefined {
  const begin = from >= to && roundUp(l1End, clusterSize) === roundUp(to, clusterSize) ? l1End : from
  if (to <= begin) return undefined
  const start = Math.max(begin, Math.floor((to - MOST_TRAILING) / clusterSize) * clusterSize)
  const bytes = new Uint8Array(to - start)
  file.read(bytes, start)
  const first = bytes.findIndex((byte) => byte !== 0)
  if (first < 0) return undefined
  const offset = Math.max(start, Math.floor((start + first) / clusterSize) * clusterSize)
  return { offset, bytes: bytes.subarray(offset - start) }
}
