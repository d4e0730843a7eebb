/** Calls on a VirtioBacking that may be several calls: vectors where it has no vectored methods, and lists of ranges. */
import type { VirtioBacking } from "../../backing/backing.ts"

/** Fills the buffers, at least one, from byte `offset` of the disk. */
export function readBuffers(backing: VirtioBacking, buffers: readonly Uint8Array[], offset: number): void | Promise<void> {
  const [first] = buffers
  if (first === undefined) return
  if (buffers.length === 1) return backing.pread(first, offset)
  if (backing.preadv !== undefined) return backing.preadv(buffers, offset)
  return inTurn(buffers.length, (index) => {
    const buffer = buffers[index] ?? first
    const at = offset
    offset += buffer.length
    return backing.pread(buffer, at)
  })
}

/** Stores the buffers, at least one, at byte `offset` of the disk. */
export function writeBuffers(backing: VirtioBacking, buffers: readonly Uint8Array[], offset: number): void | Promise<void> {
  const [first] = buffers
  if (first === undefined) return
  if (buffers.length === 1) return backing.pwrite(first, offset)
  if (backing.pwritev !== undefined) return backing.pwritev(buffers, offset)
  return inTurn(buffers.length, (index) => {
    const buffer = buffers[index] ?? first
    const at = offset
    offset += buffer.length
    return backing.pwrite(buffer, at)
  })
}

/**
 * Calls `step` with 0 to count-1, each after the one before has finished: at once as long as nothing is to be waited for. Stops at
 * the first failure, so nothing of it is still under way when the caller hears of that.
 */
export function inTurn(count: number, step: (index: number) => void | Promise<void>): void | Promise<void> {
  for (let index = 0; index < count; index++) {
    const result = step(index)
    if (result !== undefined) return finishInTurn(result, index + 1, count, step)
  }
}

async function finishInTurn(first: Promise<void>, next: number, count: number, step: (index: number) => void | Promise<void>): Promise<void> {
  await first
  for (let index = next; index < count; index++) await step(index)
}
