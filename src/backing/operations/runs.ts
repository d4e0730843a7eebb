/** A disk as runs of data and zeroes: what a copy has to read, and what it need not. */
import type { Allocation, VirtioBacking } from "../backing.ts"
import type { Operation } from "./operation.ts"

/** A disk as it is read here. */
export type SourceDisk = Pick<VirtioBacking, "size" | "pread" | "allocation">

/** A run of a disk's bytes that are alike. */
export interface Run extends Allocation {
  /** Byte where it begins. */
  readonly offset: number
}

export interface RunRange {
  /** Bytes. Default: the whole disk. */
  readonly offset?: number
  readonly length?: number
}

/** What is known of the bytes from `offset` on: a run of at most `length` > 0 bytes. Without `allocation` every byte counts as data. */
export async function runAt(disk: SourceDisk, offset: number, length: number): Promise<Run> {
  const known = await disk.allocation?.(offset, length)
  if (known === undefined) return { offset, length, isAllocated: true, isZero: false }
  const { isAllocated, isZero } = known
  return { offset, length: Math.min(known.length, length), isAllocated, isZero }
}

/**
 * The runs of a range, in order and without gaps; neighbours that are alike are one. They are found while they are asked for, so what has
 * been changed ahead of the loop shows. Takes turns of the thread. @throws what `allocation` throws, and what stops the operation
 */
export async function* runsOf(disk: SourceDisk, operation: Operation, range: RunRange = {}): AsyncGenerator<Run> {
  const { offset = 0, length = disk.size - offset } = range
  let pending: Run | undefined
  for (let done = 0; done < length; ) {
    await operation.turn()
    const run = await runAt(disk, offset + done, length - done)
    done += run.length
    if (pending !== undefined && pending.isZero === run.isZero && pending.isAllocated === run.isAllocated) {
      pending = { ...pending, length: pending.length + run.length }
    } else {
      if (pending !== undefined) yield pending
      pending = run
    }
  }
  if (pending !== undefined) yield pending
}
