/** Divides a disk into runs of data, and of zeroes, which a copy need not read. */
import type { Allocation, VirtioBacking } from "../backing.ts"

/** The members of a disk that are used here. */
export type SourceDisk = Pick<VirtioBacking, "size" | "pread" | "allocation">

/** A run of bytes of the same kind. */
export interface Run extends Allocation {
  /** Byte where it begins. */
  readonly offset: number
}

/** The run from `offset` on, of at most `length` > 0 bytes. Without `allocation` every byte counts as data. */
export async function runAt(disk: SourceDisk, offset: number, length: number): Promise<Run> {
  const known = await disk.allocation?.(offset, length)
  if (known === undefined) return { offset, length, isAllocated: true, isZero: false }
  const { isAllocated, isZero } = known
  return { offset, length: Math.min(known.length, length), isAllocated, isZero }
}
