/**
 * UsualServer: serves batches of usual requests, which takes half of what it takes otherwise: they are rows of numbers, and one loop takes
 * them, another makes the calls, and a third completes them. What comes in between goes on as a `Batch`.
 */
import type { VirtioBacking } from "../../../backing/backing.ts"
import type { VirtioDevice } from "../../device.ts"
import { ROW as ROW_SIZE } from "../../queue/chain-rows.ts"
import type { Ring } from "../../queue/ring.ts"
import { LOOK_WEIGHT, type Turn } from "../../turn.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import { refusePromise } from "../answers.ts"
import type { Batch } from "../batch.ts"
import type { BatchErrors } from "../errors/batch-errors.ts"
import type { RequestLimits } from "../request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import type { ThrottledRequests } from "../throttling/throttled-requests.ts"
import { REQUEST_WEIGHT } from "../weights.ts"
import type { BlkWiring } from "../wiring.ts"
import { LENGTH as LENGTH_AT, OFFSET as OFFSET_AT, SECTOR as SECTOR_AT, TYPE as TYPE_AT } from "./columns.ts"
import { takePacked } from "./packed-request.ts"
import { UsualRequests } from "./requests.ts"
import { takeSplit } from "./split-request.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN } = VIRTIO_BLK_T
const [BYTES, LOOK, LEAST, ROW] = [SECTOR_SIZE, LOOK_WEIGHT, REQUEST_WEIGHT, ROW_SIZE] as const
const [TYPE, SECTOR, OFFSET, LENGTH] = [TYPE_AT, SECTOR_AT, OFFSET_AT, LENGTH_AT] as const

// What has become of the requests:

/** They have been completed, and the driver has been shown that. */
export const DONE = 0
/** Nothing has been done for them: they are in `requests`, and others may wait behind them. */
export const LEFT = 1
/** Some have been acted upon: the batch has them all. */
export const BEGUN = 2

/** What a `UsualServer` works with. */
export interface UsualServerParts {
  readonly wiring: BlkWiring
  readonly disk: RequestLimits
  readonly throttled: ThrottledRequests
  /** Where requests go on. */
  readonly batch: Batch
  readonly errors: BatchErrors
}

export class UsualServer {
  readonly requests = new UsualRequests()
  readonly #parts: UsualServerParts

  constructor(parts: UsualServerParts) {
    this.#parts = parts
  }

  /** Serves the requests that `ring.look` has seen, `most` at most, if all of them are usual. Returns what has become of them. */
  serve(queue: Virtqueue, ring: Ring, turn: Turn, most: number): typeof DONE | typeof LEFT | typeof BEGUN {
    const { device, executor, completion, cacheMode } = this.#parts.wiring
    const { requests } = this
    requests.begin(queue, ring)
    this.#take(ring, most)
    if (!requests.isWhole || !this.#mayServe()) return LEFT
    const { changes } = device
    try {
      callUsual(requests, executor.backing, device, turn)
    } catch (error) {
      return this.#failed(queue, ring, error)
    }
    if (requests.next < requests.count || device.changes !== changes || (requests.writes > 0 && cacheMode.writeThrough)) {
      return this.#leave(queue, ring)
    }
    // Nobody is called in between, so nothing changes.
    completion.completeUsual(requests)
    device.publish(queue, ring)
    return DONE
  }

  #take(ring: Ring, most: number): void {
    const { requests } = this
    const { splitRows } = ring
    if (splitRows !== undefined) {
      requests.rowRing = splitRows
      takeSplit(requests, splitRows, this.#parts.disk, most)
      return
    }
    const { packedRows } = ring
    if (packedRows === undefined) return
    requests.rowRing = packedRows
    takePacked(requests, packedRows, this.#parts.disk, most)
  }

  /** The disk answers at once, nobody wants to know of the single request, and none has to wait. */
  #mayServe(): boolean {
    const { wiring: { device, executor, errors, observation }, throttled } = this.#parts
    return executor.backing.asynchronous !== true && errors.stoppedBy === undefined && device.memory.written === undefined &&
      (observation === undefined || !observation.isDue()) && throttled.admits(this.requests)
  }

  /** The call for the request `next` failed. */
  #failed(queue: Virtqueue, ring: Ring, error: unknown): typeof BEGUN {
    const { batch, errors } = this.#parts
    this.#leave(queue, ring)
    const { next } = batch
    if (errors.failed(next, next + 1, error)) batch.next = next + 1
    return BEGUN
  }

  /** Leaves the requests to the batch. */
  #leave(queue: Virtqueue, ring: Ring): typeof BEGUN {
    const { batch } = this.#parts
    batch.begin(queue, ring)
    batch.hasWritten = this.requests.writes > 0
    batch.adopt(this.requests)
    return BEGUN
  }
}

/**
 * Acts on `requests` from `next` on: up to the first that may be merged with another, until the turn is over, or until a call has changed
 * what the device may do. @throws what the backing throws, for the request `next`
 */
export function callUsual(requests: UsualRequests, backing: VirtioBacking, device: VirtioDevice, turn: Turn): void {
  const { rows, region, neighbour } = requests
  const { changes } = device
  for (let index = requests.next; index < neighbour; index++) {
    const row = ROW * index
    const start = rows[row + OFFSET] ?? 0
    const length = rows[row + LENGTH] ?? 0
    const offset = (rows[row + SECTOR] ?? 0) * BYTES
    const type = rows[row + TYPE]
    let answer: unknown
    if (type === IN) {
      if (backing.preadInto !== undefined) answer = backing.preadInto(region.bytes, start, length, offset)
      else answer = backing.pread(region.viewAt(start, length), offset)
    } else if (backing.pwriteFrom !== undefined) answer = backing.pwriteFrom(region.bytes, start, length, offset)
    else answer = backing.pwrite(region.viewAt(start, length), offset)
    if (answer !== undefined) refusePromise(answer, methodOf(backing, type))
    requests.next = index + 1
    turn.spend(backing.slow === true ? LOOK : length > LEAST ? length : LEAST, length)
    if (device.changes !== changes || turn.over) return
  }
}

function methodOf(backing: VirtioBacking, type: number | undefined): string {
  if (type === IN) return backing.preadInto === undefined ? "pread" : "preadInto"
  return backing.pwriteFrom === undefined ? "pwrite" : "pwriteFrom"
}
