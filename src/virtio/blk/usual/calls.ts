/**
 * The calls of usual requests on a backing that answers at once: one call each, for data in one stretch of RAM. What is merged, long or
 * anything else is left to the `Executor`. One loop, which costs a third of what it takes through the executor (measured).
 */
import type { VirtioBacking } from "../../../backing/backing.ts"
import type { VirtioDevice } from "../../device.ts"
import { LOOK_WEIGHT, type Turn } from "../../turn.ts"
import { refusePromise } from "../answers.ts"
import type { Batch } from "../batch.ts"
import { SLICE_BYTES } from "../executor.ts"
import { SECTOR_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T } from "../spec.ts"
import { REQUEST_WEIGHT } from "../weights.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { OK } = VIRTIO_BLK_S
const { IN, OUT } = VIRTIO_BLK_T
const [SECTOR, MOST, LOOK, LEAST] = [SECTOR_SIZE, SLICE_BYTES, LOOK_WEIGHT, REQUEST_WEIGHT] as const

/**
 * Acts on the requests of `batch` from `next` on: up to the first that is not usual, until the turn is over, or until a call has changed
 * what the device may do. @throws what the backing throws, for the request `next`
 */
export function callUsual(batch: Batch, backing: VirtioBacking, device: VirtioDevice, turn: Turn): void {
  if (backing.asynchronous === true) return
  const { requests, taken } = batch
  const { changes } = device
  for (let index = batch.next; index < taken; index++) {
    const request = requests[index]
    if (request === undefined || request.outcome !== OK || request.count !== 1) return
    const { type, sector, dataLength } = request
    if ((type !== IN && type !== OUT) || dataLength > MOST || isContinued(batch, index)) return
    const region = request.region(0)
    const start = request.offset(0)
    let answer: unknown
    if (type === IN) {
      if (backing.preadInto !== undefined) answer = backing.preadInto(region.bytes, start, dataLength, sector * SECTOR)
      else answer = backing.pread(region.viewAt(start, dataLength), sector * SECTOR)
    } else {
      if (backing.pwriteFrom !== undefined) answer = backing.pwriteFrom(region.bytes, start, dataLength, sector * SECTOR)
      else answer = backing.pwrite(region.viewAt(start, dataLength), sector * SECTOR)
      batch.hasWritten = true
    }
    if (answer !== undefined) refusePromise(answer, methodOf(backing, type))
    batch.next = index + 1
    turn.spend(backing.slow === true ? LOOK : dataLength > LEAST ? dataLength : LEAST, dataLength)
    if (device.changes !== changes || turn.over) return
  }
}

/** Whether the request behind `index` may be merged with it. */
function isContinued({ requests, taken }: Batch, index: number): boolean {
  const request = requests[index]
  const next = requests[index + 1]
  if (request === undefined || next === undefined || index + 1 === taken) return false
  return next.type === request.type && (next.sector - request.sector) * SECTOR === request.dataLength
}

function methodOf(backing: VirtioBacking, type: number): string {
  if (type === IN) return backing.preadInto === undefined ? "pread" : "preadInto"
  return backing.pwriteFrom === undefined ? "pwrite" : "pwriteFrom"
}
