/** Calls on a VirtioBacking that may be several calls: vectors where it has no vectored methods, and lists of ranges. */
import type { VirtioBacking } from "../../backing/backing.ts"
import type { BlkRequest } from "./request.ts"

/** Fills the buffers that `gatherBuffers` has collected for `request`, from byte `offset` of the disk. */
export function readBuffers(backing: VirtioBacking, request: BlkRequest, offset: number): void | Promise<void> {
  const { buffer, buffers } = request
  if (buffer !== undefined) return backing.pread(buffer, offset)
  if (buffers === undefined) return
  if (backing.preadv !== undefined) return backing.preadv(buffers, offset)
  return eachBuffer(buffers, offset, (each, at) => backing.pread(each, at))
}

/** Stores the buffers that `gatherBuffers` has collected for `request`, at byte `offset` of the disk. */
export function writeBuffers(backing: VirtioBacking, request: BlkRequest, offset: number): void | Promise<void> {
  const { buffer, buffers } = request
  if (buffer !== undefined) return backing.pwrite(buffer, offset)
  if (buffers === undefined) return
  if (backing.pwritev !== undefined) return backing.pwritev(buffers, offset)
  return eachBuffer(buffers, offset, (each, at) => backing.pwrite(each, at))
}

function eachBuffer(buffers: readonly Uint8Array[], offset: number, call: (buffer: Uint8Array, offset: number) => void | Promise<void>): void | Promise<void> {
  return inTurn(buffers.length, (index) => {
    const buffer = buffers[index]
    if (buffer === undefined) return
    const at = offset
    offset += buffer.length
    return call(buffer, at)
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
