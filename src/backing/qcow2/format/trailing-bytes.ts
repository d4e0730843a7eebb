/**
 * Bytes that another program has appended to the file after the last used cluster. The format does not mention them, other programs
 * overwrite them, and their owner expects them at the end of the file.
 */
import { roundUp } from "../../bytes/fields.ts"

/**
 * Maximum bytes that are preserved. The limit exists because clusters that a crash has leaked at the end look the same, and are preserved
 * as well.
 */
export const MOST_TRAILING = 4 * 1024 * 1024

/** Bytes and their offset in the file. */
export interface TrailingBytes {
  readonly offset: number
  readonly bytes: Uint8Array
}

export interface TrailingRange {
  /** Byte where the last cluster in use ends. */
  readonly from: number
  /** Byte where the active L1 table ends. A new image of QEMU ends with this table, inside a cluster. */
  readonly l1End: number
  /** Byte where the file ends. */
  readonly to: number
  readonly clusterSize: number
}

/** The bytes after the last used cluster, without leading clusters of zeroes; undefined if all are zeroes. */
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
