/**
 * RequestServer: takes requests from a queue, executes and completes them, until the turn ends. It has three loops over a batch in place of
 * one loop over requests, because code that runs between host calls has cold caches (100 ns a request, measured).
 */
import type { VirtioDevice } from "../device.ts"
import type { DeviceHandler } from "../device-handler.ts"
import type { Ring, TakenChain } from "../queue/ring.ts"
import { VirtqueueError } from "../queue/virtqueue-error.ts"
import type { RestoreOptions } from "../state.ts"
import type { Turn } from "../turn.ts"
import type { Virtqueue } from "../virtqueue.ts"
import { Batch, BATCH_REQUESTS } from "./batch.ts"
import { BatchErrors } from "./errors/batch-errors.ts"
import { Pending } from "./pending.ts"
import { refusalOf } from "./refusal.ts"
import type { ThrottledRequests } from "./throttling/throttled-requests.ts"
import { restoreCapacity } from "./saved-disk.ts"
import type { UsualRequests } from "./usual/requests.ts"
import { type BatchServer, DONE as ALL_DONE, LEFT as ALL_LEFT, UsualServer } from "./usual/usual-server.ts"
import { DESCRIPTOR_WEIGHT, REQUEST_WEIGHT, spend, spendLater } from "./weights.ts"
import { type BlkRequest, isWrite, type RequestLimits, WAITING as STILL_WAITING } from "./request.ts"
import { type BlkStatus, VIRTIO_BLK_CONFIG, VIRTIO_BLK_S, VIRTIO_BLK_T } from "./spec.ts"
import type { BlkWiring } from "./wiring.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { OK } = VIRTIO_BLK_S
const { FLUSH, GET_ID } = VIRTIO_BLK_T
const WAITING = STILL_WAITING
const [DONE, LEFT] = [ALL_DONE, ALL_LEFT] as const
/** Beside DONE, LEFT and BEGUN: no requests wait. */
const NONE = 3

/** The disk whose requests are served. */
export interface ServedDisk extends RequestLimits {
  /** Called after a reset of the device: delayed changes take effect. */
  wasReset(): void
  /** The state outside the configuration space, as JSON values. */
  saveState(): unknown
  /** See `DeviceHandler.restoreState`. */
  restoreState(saved: unknown, options: RestoreOptions): () => void
}

export class RequestServer implements DeviceHandler, BatchServer {
  readonly #wiring: BlkWiring
  readonly #device: VirtioDevice
  readonly #disk: ServedDisk
  readonly #throttled: ThrottledRequests
  readonly #usual: UsualServer
  readonly #requests: UsualRequests
  readonly #batch = new Batch()
  readonly #errors: BatchErrors
  readonly #refusal = (request: BlkRequest): BlkStatus => refusalOf(request, this.#disk, this.#wiring)

  constructor(wiring: BlkWiring, disk: ServedDisk, throttled: ThrottledRequests) {
    this.#wiring = wiring
    this.#device = wiring.device
    this.#disk = disk
    this.#throttled = throttled
    this.#errors = new BatchErrors(wiring, this.#batch)
    this.#usual = new UsualServer({ wiring, disk, throttled, batch: this.#batch, errors: this.#errors, server: this })
    this.#requests = this.#usual.requests
    wiring.failures.onBug = () => wiring.device.work.awaitEnd()
  }

  get unfinished(): boolean {
    const batch = this.#batch
    const requests = this.#requests
    return (batch.settled < batch.taken && batch.unfinished) || (requests.count > 0 && requests.unfinished) || this.#usual.call.unfinished
  }

  chains(queue: Virtqueue): readonly TakenChain[] {
    return [...this.#usual.requests.chains(queue), ...this.#usual.call.chains(queue), ...this.#batch.chains(queue)]
  }

  mayGoOn(): void {
    this.#wiring.errors.releaseKept()
    this.#throttled.poke()
  }

  turnEnded(): void {
    this.#wiring.failures.throwBugs()
  }

  writeConfigByte(offset: number, value: number): void {
    this.#device.changes++
    if (offset === VIRTIO_BLK_CONFIG.writeback) this.#wiring.cacheMode.choose(value !== 0)
  }

  negotiated(): void {
    this.#wiring.cacheMode.negotiated()
    this.#wiring.zoned.negotiated()
  }

  wasReset(): void {
    this.#disk.wasReset()
    this.#wiring.cacheMode.reset()
    this.#wiring.zoned.reset()
  }

  saveState(): unknown {
    return this.#disk.saveState()
  }

  restoreState(saved: unknown, options: RestoreOptions): () => void {
    return this.#disk.restoreState(saved, options)
  }

  /** Restores the cache mode, which the driver chooses, and tells the driver of another capacity. */
  restoreConfig(config: Uint8Array): void {
    const { cacheMode, device } = this.#wiring
    cacheMode.restore(config[VIRTIO_BLK_CONFIG.writeback] !== 0)
    restoreCapacity(config, this.#disk, device)
  }

  /** A driver on another thread can refill the ring meanwhile, or take back available chains, so every look at the ring counts as work. */
  serve(queue: Virtqueue, ring: Ring, turn: Turn): boolean {
    const device = this.#device
    for (let budget = 2 * ring.size; budget > 0 && !turn.over; budget--) {
      if (device.inFlight.full) {
        device.inFlight.waitForMemory(queue)
        return false
      }
      const room = this.#usual.gate.isPlain() || this.#throttled.isFar ? BATCH_REQUESTS : this.#throttled.room(queue)
      if (room === 0) return false
      if (!queue.mayTake(ring)) return false
      const { changes } = device
      let drained = true
      let hasMoved = true
      const how = ring.look() ? this.#usual.serve(queue, ring, turn, room) : NONE
      if (how === DONE || how === NONE) {
        if (how === DONE) {
          drained = this.#requests.isDrained
          budget -= this.#requests.taken
        }
        // Even without new requests: some may have completed while the device could not touch memory, or before its state was saved.
        hasMoved = device.publish(queue, ring)
      } else {
        drained = how === LEFT ? this.fillBatch(queue, ring, room, turn) : this.#requests.isDrained
        budget -= this.#batch.taken
        if (!this.#goOn(queue, ring, turn)) return this.#hasMore(queue)
      }
      // The interrupt may have run the driver, which may have reset us. Whoever ends a pause, or opens memory again, continues here.
      if (device.changes !== changes && !queue.mayTake(ring)) return false
      if (!drained) continue
      // An interrupt may have replaced the memory.
      if (hasMoved && !queue.mayTake(ring)) return false
      if (ring.enableKicks()) continue
      this.#usual.awaitKick(queue, ring)
      return false
    }
    return true
  }

  /** Fills the batch with the usual requests already taken, and then with others. Returns whether the ring is empty. */
  fillBatch(queue: Virtqueue, ring: Ring, room: number, turn: Turn): boolean {
    const { observation } = this.#wiring
    const batch = this.#batch
    batch.begin(queue, ring)
    batch.adopt(this.#usual.requests)
    batch.most = room
    const drained = batch.take(queue, ring, this.#refusal, this.#usual.walked)
    turn.spend(DESCRIPTOR_WEIGHT * batch.descriptors, 0)
    if (observation !== undefined) batch.isObserved = observation.arrived(batch.requests, batch.taken)
    // Looking for RAM calls the embedder, who may have reset the queue: then nothing would ever release the requests.
    if (queue.ring === ring) this.#throttled.hold(this.#wiring, queue, ring, batch)
    return drained
  }

  finish(turn: Turn): boolean {
    const { device } = this.#wiring
    const { queue, ring } = this.#batch
    if (queue === undefined || ring === undefined) return false
    try {
      if (!this.#goOn(queue, ring, turn)) return this.#hasMore(queue)
    } catch (error) {
      device.breakDown(queue, ring, error)
    }
    return false
  }

  /** Whether to continue in the next turn. Without memory, `queue` continues when some is released. */
  #hasMore(queue: Virtqueue): boolean {
    const { device } = this.#wiring
    if (!device.inFlight.full || !device.work.open) return true
    device.inFlight.waitForMemory(queue)
    return false
  }

  /** Like `#proceed`. @throws VirtqueueError if the ring is broken after the last request of the batch, when that has ended */
  #goOn(queue: Virtqueue, ring: Ring, turn: Turn): boolean {
    const batch = this.#batch
    try {
      if (!this.#proceed(queue, ring, turn)) return false
      if (batch.brokenBy !== undefined && queue.ring === ring) throw batch.brokenBy
    } catch (error) {
      // The requests of a broken ring end with it. After any other error, a bug, the rest of the batch continues in the next turn.
      if (error instanceof VirtqueueError) batch.drop()
      throw error
    }
    return true
  }

  /** Executes and completes the batch. Returns false if there is more to do, in the next turn or after a release of memory. */
  #proceed(queue: Virtqueue, ring: Ring, turn: Turn): boolean {
    const { device, statistics, errors } = this.#wiring
    const { work, inFlight } = device
    const batch = this.#batch
    if (errors.stoppedBy !== undefined) this.#errors.keepRest()
    while (batch.next < batch.taken && !turn.over && work.open && queue.ring === ring) {
      const first = batch.next
      const leader = batch.slot(first)
      if (leader.outcome !== OK || leader.type === GET_ID) {
        turn.spend(REQUEST_WEIGHT, 0)
        batch.next++
        continue
      }
      if (inFlight.full) break
      const end = batch.groupEnd(first)
      if (!this.#perform(queue, ring, first, end, turn)) continue
      if (isWrite(leader)) batch.hasWritten = true
      statistics.merged += end - first - 1
      batch.next = end
    }
    if (batch.hasWritten && work.open && queue.ring === ring) this.#errors.stabilise(turn)
    // The backing may have reset the device inside a call: then no request reaches the guest.
    if (queue.ring !== ring) {
      batch.drop()
      return true
    }
    if (!work.open) return false
    this.#settle(queue, ring)
    const through = batch.settled === batch.taken
    // Comes last, because it may interrupt.
    device.publish(queue, ring)
    return through
  }

  /**
   * Makes the calls for a group. Returns false if the group has not ended: the turn is over, the queue was reset, bus mastering is off, or
   * its requests have to be tried one by one.
   */
  #perform(queue: Virtqueue, ring: Ring, first: number, end: number, turn: Turn): boolean {
    const { executor, device } = this.#wiring
    const { requests } = this.#batch
    const leader = this.#batch.slot(first)
    if (leader.total === 0 && leader.type !== FLUSH) {
      turn.spend(REQUEST_WEIGHT, 0)
      return true
    }
    do {
      if (!queue.mayTouch(ring, this.#batch)) return false
      let answer: PromiseLike<void> | undefined
      try {
        answer = executor.step(requests, first, end)
      } catch (error) {
        return this.#errors.failed(first, end, error)
      }
      // Bus mastering is off, since the call: the data wait like a late answer.
      const isStuck = answer === undefined && leader.own !== undefined && !queue.mayTouch(ring, this.#batch)
      if (isStuck && queue.ring === ring) answer = Promise.resolve()
      if (answer !== undefined) {
        spendLater(turn, leader)
        new Pending(this.#wiring, { queue, ring, generation: this.#batch.generation }, this.#batch.detach(first, end)).wait(answer)
        return queue.ring === ring
      }
      if (queue.ring !== ring) {
        leader.own = undefined
        return false
      }
      executor.advance(requests, first, end)
      spend(turn, leader, executor.slow)
      if (leader.done >= leader.total) return true
    } while (!turn.over && device.work.open)
    return false
  }

  /** Completes the requests that have been executed. */
  #settle(queue: Virtqueue, ring: Ring): void {
    const { device, completion } = this.#wiring
    const { memory, work } = device
    const batch = this.#batch
    const { requests } = batch
    const observation = batch.isObserved ? this.#wiring.observation : undefined
    observation?.look()
    if (!queue.mayTouch(ring, batch)) return
    // Completion calls `GuestMemory.written` and the observer, which may throw, reset the device or switch bus mastering off.
    while (batch.settled < batch.next && queue.ring === ring && work.open) {
      const request = requests[batch.settled++]
      if (request === undefined || request.outcome === WAITING) continue
      completion.complete(memory, ring, request, request.outcome)
      observation?.completed(queue.index, request, request.outcome)
      // It may also have replaced the memory.
      if (observation !== undefined && !queue.mayTouch(ring, batch)) return
    }
  }
}
