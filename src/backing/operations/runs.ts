/** A disk as runs of data and zeroes: what a copy has to read, and what it need not. */
import type { Allocation, VirtioBacking } from "../backing.ts"

/** A disk as it is read here. */
export type SourceDisk = Pick<VirtioBacking, "size" | "pread" | "allocation">

/** A run of a disk's bytes that are alike. */
export interface Run extends Allocation {
  /** Byte where it begins. */
  readonly offset: number
}

/** What is known of the bytes from `offset` on: a run of at most `length` > 0 bytes. Without `allocation` every byte counts as data. */
export async function runAt(disk: SourceDisk, offset: number, length: number): Promise<Run> {
  const known = await disk.allocation?.(offset, length)
  if (known === undefined) return { offset, length, isAllocated: true, isZero: false }
  const { isAllocated, isZero } = known
  return { offset, length: Math.min(known.length, length), isAllocated, isZero }
}
