/**
 * RequestServer: takes requests from a queue, acts on them and completes them, as far as a turn goes. Three loops over a batch rather
 * than one over requests: what runs between calls of the host runs cold (100 ns a request, measured).
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
/** Beside them: no requests wait. */
const NONE = 3

/** The disk whose requests are served. */
export interface ServedDisk extends RequestLimits {
  /** The device has been reset: what has waited for that may happen. */
  wasReset(): void
  /** What the configuration does not say, as JSON values. */
  saveState(): unknown
  /** As that of `DeviceHandler`. */
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

  /** The cache mode is the driver's; a capacity that is another now is news to it. */
  restoreConfig(config: Uint8Array): void {
    const { cacheMode, device } = this.#wiring
    cacheMode.restore(config[VIRTIO_BLK_CONFIG.writeback] !== 0)
    restoreCapacity(config, this.#disk, device)
  }

  /** A driver on another thread has two rounds through the ring at once. Each look counts: it may take back what it has made available. */
  serve(queue: Virtqueue, ring: Ring, turn: Turn): boolean {
    const device = this.#device
    const usual = this.#usual
    const requests = this.#requests
    for (let budget = 2 * ring.size; budget > 0 && !turn.over; budget--) {
      if (device.inFlight.full) {
        device.inFlight.waitForMemory(queue)
        return false
      }
      const room = usual.isPlain() || this.#throttled.isFar ? BATCH_REQUESTS : this.#throttled.room(queue)
      if (room === 0) return false
      ring.refresh()
      const { changes } = device
      let drained = true
      let hasMoved = true
      const how = ring.look() ? usual.serve(queue, ring, turn, room) : NONE
      if (how === DONE || how === NONE) {
        if (how === DONE) {
          drained = requests.isDrained
          budget -= requests.taken
        }
        // Without requests: those completed while the device was kept from memory, or before its state was saved.
        hasMoved = device.publish(queue, ring)
      } else {
        drained = how === LEFT ? this.fillBatch(queue, ring, room, turn) : requests.isDrained
        budget -= this.#batch.taken
        if (!this.#goOn(queue, ring, turn)) return this.#hasMore(queue)
      }
      // An interrupt may have run the driver, which may have reset us. If we are paused or kept from memory, whoever ends that goes on.
      if (device.changes !== changes && !device.mayTake(queue, ring)) return false
      if (!drained) continue
      // An interrupt may have replaced the memory.
      if (hasMoved) ring.refresh()
      if (ring.enableKicks()) continue
      usual.awaitKick(queue, ring)
      return false
    }
    return true
  }

  /** Fills the batch with the usual requests that have been taken, and others. Returns whether the ring is empty. */
  fillBatch(queue: Virtqueue, ring: Ring, room: number, turn: Turn): boolean {
    const { observation } = this.#wiring
    const batch = this.#batch
    batch.begin(queue, ring)
    batch.adopt(this.#usual.requests)
    batch.most = room
    const drained = batch.take(queue, ring, this.#refusal, this.#usual.walked)
    turn.spend(DESCRIPTOR_WEIGHT * batch.descriptors, 0)
    if (observation !== undefined) batch.isObserved = observation.arrived(batch.requests, batch.taken)
    this.#throttled.hold(this.#wiring, queue, ring, batch)
    return drained
  }

  finish(turn: Turn): boolean {
    const { device } = this.#wiring
    const batch = this.#batch
    const { queue, ring } = batch
    if (queue === undefined || ring === undefined) return false
    try {
      if (!this.#goOn(queue, ring, turn)) return this.#hasMore(queue)
    } catch (error) {
      // An interrupt handler of the embedder's may throw anything: what is left of the batch goes on in the next turn.
      if (error instanceof VirtqueueError) batch.drop()
      device.breakDown(queue, error)
    }
    return false
  }

  /** What is unfinished is for the next turn, or for when memory is released. */
  #hasMore(queue: Virtqueue): boolean {
    const { device } = this.#wiring
    if (!device.inFlight.full || !device.work.open) return true
    device.inFlight.waitForMemory(queue)
    return false
  }

  /** As `#proceed`. @throws VirtqueueError when the ring is broken behind the last request of the batch, and that is through */
  #goOn(queue: Virtqueue, ring: Ring, turn: Turn): boolean {
    if (!this.#proceed(queue, ring, turn)) return false
    const { brokenBy } = this.#batch
    if (brokenBy !== undefined && queue.ring === ring) throw brokenBy
    return true
  }

  /** Acts on the batch and completes what is done. Returns false when there is more to do, for the next turn or when memory is released. */
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
    // A backing may have reset the device from inside a call: then nothing of it reaches the guest.
    if (queue.ring !== ring) {
      batch.drop()
      return true
    }
    if (!work.open) return false
    this.#settle(queue, ring)
    const through = batch.settled === batch.taken
    // The last thing: it may interrupt.
    device.publish(queue, ring)
    return through
  }

  /**
   * Makes the calls that a group needs. Returns false when the group is not through: the turn is over, its life is, bus mastering is off,
   * or its requests are to be tried one by one.
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
      this.#refresh(ring)
      let answer: PromiseLike<void> | undefined
      try {
        answer = executor.step(requests, first, end)
      } catch (error) {
        return this.#errors.failed(first, end, error)
      }
      // The call has switched bus mastering off: what it read waits, as an answer that comes later does.
      if (answer === undefined && leader.own !== undefined && !device.work.open) answer = Promise.resolve()
      if (answer !== undefined) {
        spendLater(turn, leader)
        new Pending(this.#wiring, { queue, ring, generation: this.#batch.generation }, this.#batch.detach(first, end)).wait(answer)
        return queue.ring === ring
      }
      if (queue.ring !== ring) {
        leader.own = undefined
        return false
      }
      if (leader.own !== undefined) this.#refresh(ring)
      executor.advance(requests, first, end)
      spend(turn, leader, executor.slow)
      if (leader.done >= leader.total) return true
    } while (!turn.over && device.work.open)
    return false
  }

  /** Completes those that have been acted upon. */
  #settle(queue: Virtqueue, ring: Ring): void {
    const { device, completion } = this.#wiring
    const { memory, work } = device
    const batch = this.#batch
    const { requests } = batch
    const observation = batch.isObserved ? this.#wiring.observation : undefined
    observation?.look()
    this.#refresh(ring)
    // Completing calls `GuestMemory.written`, and the observer, which may throw, reset the device or switch bus mastering off.
    while (batch.settled < batch.next && queue.ring === ring && work.open) {
      const request = requests[batch.settled++]
      if (request === undefined || request.outcome === WAITING) continue
      completion.complete(memory, ring, request, request.outcome)
      observation?.completed(queue.index, request, request.outcome)
      if (observation !== undefined && queue.ring === ring) this.#refresh(ring)
    }
  }

  /** The embedder may have replaced the memory, whatever it was called for. @throws VirtqueueError when what is needed is gone */
  #refresh(ring: Ring): void {
    ring.refresh()
    this.#batch.refresh(this.#device.memory)
  }
}
