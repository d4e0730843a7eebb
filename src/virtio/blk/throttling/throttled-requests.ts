/**
 * ThrottledRequests: the requests of a device that wait for its throttle. A few of each queue are taken out of the ring, so that reads can
 * pass waiting writes, and vice versa; the rest stay in the ring. They use no time of the thread, a reset ends them, and they are saved
 * with the device.
 */
import type { Ring } from "../../queue/ring.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import { type Batch, BATCH_REQUESTS } from "../batch.ts"
import { Pending } from "../pending.ts"
import { rangesLength } from "../ranges.ts"
import { type BlkRequest, changesDisk } from "../request.ts"
import { VIRTIO_BLK_S, VIRTIO_BLK_T } from "../spec.ts"
import type { BlkWiring } from "../wiring.ts"
import type { Tally } from "./limits.ts"
import type { Direction, ThrottledRequest } from "./lane.ts"
import type { Throttle } from "./throttle.ts"

const { OK } = VIRTIO_BLK_S
const { IN, DISCARD, SECURE_ERASE, WRITE_ZEROES } = VIRTIO_BLK_T

/** Maximum of requests of a queue that wait outside its ring. */
const LOOK_AHEAD = 32

export class ThrottledRequests {
  #throttle: Throttle | undefined
  /** The waiting requests of this device. */
  readonly #waiting = new Set<ThrottledRequest>()
  readonly #tally: Tally = { reads: 0, readBytes: 0, writes: 0, writeBytes: 0 }

  constructor(throttle: Throttle | undefined) {
    this.#throttle = throttle
  }

  get throttle(): Throttle | undefined {
    return this.#throttle
  }

  /** Requests that wait for the old throttle then wait for the new one, or go at once if there is none. */
  set throttle(throttle: Throttle | undefined) {
    const waiting = [...this.#waiting]
    for (const one of waiting) this.#throttle?.forget(one)
    this.#throttle = throttle
    if (throttle === undefined) this.#letGo()
    else for (const one of waiting) passTo(throttle, one)
  }

  /** Whether a whole batch is far from every limit of requests, and no request waits, so that `room` need not be called. */
  get isFar(): boolean {
    return this.#throttle === undefined ? this.#waiting.size === 0 : this.#throttle.isFar(BATCH_REQUESTS)
  }

  /** Requests that may be taken from `queue` now. 0: the queue is served again after some waiting requests have gone. */
  room(queue: Virtqueue): number {
    const throttle = this.#throttle
    if (throttle === undefined) {
      if (this.#waiting.size > 0) this.#letGo()
      return BATCH_REQUESTS
    }
    throttle.poke()
    if (throttle.waiting > 0) return Math.max(LOOK_AHEAD - throttle.waitingOf(queue), 0)
    return Math.min(Math.ceil(throttle.room) + LOOK_AHEAD, BATCH_REQUESTS)
  }

  /** The device may serve requests again. */
  poke(): void {
    if (this.#waiting.size === 0) return
    if (this.#throttle === undefined) this.#letGo()
    else this.#throttle.poke()
  }

  /** Counts the requests of `tally`, if all of them may go at once. */
  admits(tally: Tally): boolean {
    return this.#throttle === undefined || this.#throttle.admitAll(tally)
  }

  /** Takes the requests that have to wait out of `batch`, which has just been filled. */
  hold(wiring: BlkWiring, queue: Virtqueue, ring: Ring, batch: Batch): void {
    const throttle = this.#throttle
    if (throttle === undefined || throttle.admitAll(this.#count(batch))) return
    for (let index = 0; index < batch.taken; index++) {
      const request = batch.slot(index)
      const direction = directionOf(request)
      if (request.outcome !== OK || direction === undefined) continue
      const bytes = bytesOf(request)
      if (throttle.admit(direction, bytes)) continue
      const pending = new Pending(wiring, { queue, ring, generation: batch.generation }, batch.detachAlone(index))
      this.#wait(wiring, pending, direction, bytes)
    }
  }

  #count(batch: Batch): Tally {
    const tally = this.#tally
    tally.reads = tally.readBytes = tally.writes = tally.writeBytes = 0
    for (let index = 0; index < batch.taken; index++) {
      const request = batch.slot(index)
      if (request.outcome !== OK) continue
      if (request.type === IN) {
        tally.reads++
        tally.readBytes += request.dataLength
      } else if (changesDisk(request)) {
        tally.writes++
        tally.writeBytes += bytesOf(request)
      }
    }
    return tally
  }

  /** Releases all requests, because there is no throttle any more. */
  #letGo(): void {
    for (const one of this.#waiting) if (one.mayGo) one.go()
  }

  #wait({ device }: BlkWiring, pending: Pending, direction: Direction, bytes: number): void {
    const { queue, ring } = pending
    const one: ThrottledRequest = {
      direction, bytes, queue,
      get mayGo() {
        return queue.ring === ring && device.pauses.isOpen && device.work.open && device.inFlight.oldChanges === 0
      },
      go: () => {
        this.#waiting.delete(one)
        pending.goOn()
        // The requests still in the ring may be taken now.
        device.work.add(queue)
      },
    }
    this.#waiting.add(one)
    pending.park(() => {
      this.#waiting.delete(one)
      this.#throttle?.forget(one)
    })
    this.#throttle?.wait(one)
  }
}

function passTo(throttle: Throttle, one: ThrottledRequest): void {
  if (one.mayGo && throttle.admit(one.direction, one.bytes)) one.go()
  else throttle.wait(one)
}

/** Whether the request counts as a read or a write. Undefined for one that is not throttled, such as a flush. */
function directionOf(request: BlkRequest): Direction | undefined {
  if (request.type === IN) return "read"
  return changesDisk(request) ? "write" : undefined
}

/** Bytes that a request counts as. Discarded bytes count as none. */
function bytesOf(request: BlkRequest): number {
  const { type, ranges, dataLength } = request
  if (type === DISCARD || type === SECURE_ERASE) return 0
  return type === WRITE_ZEROES ? rangesLength(ranges) : dataLength
}
