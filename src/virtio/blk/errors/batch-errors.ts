/** Handles the requests of a batch after a call of the backing has failed, or when the disk stops. */
import type { Turn } from "../../turn.ts"
import type { Batch } from "../batch.ts"
import { Pending } from "../pending.ts"
import { isWrite, WAITING } from "../request.ts"
import { VIRTIO_BLK_S, VIRTIO_BLK_T } from "../spec.ts"
import { FLUSH_WEIGHT } from "../weights.ts"
import type { BlkWiring } from "../wiring.ts"

const { OK } = VIRTIO_BLK_S
const { GET_ID } = VIRTIO_BLK_T

export class BatchErrors {
  readonly #wiring: BlkWiring
  readonly #batch: Batch
  /** A backing may have reset the device, or switched bus mastering off, inside the call. */
  readonly #mayStore = (): boolean => {
    const { queue, ring } = this.#batch
    return ring !== undefined && queue?.mayTouch(ring, this.#batch) === true
  }

  constructor(wiring: BlkWiring, batch: Batch) {
    this.#wiring = wiring
    this.#batch = batch
  }

  /**
   * The call for the requests from `first` to before `end` failed. If it was for several, each is tried alone, so that only those that fail
   * alone get the error. Returns whether they have ended. If the disk stops, nothing is left to execute in the batch.
   */
  failed(first: number, end: number, error: unknown): boolean {
    const batch = this.#batch
    const leader = batch.slot(first)
    leader.own = undefined
    if (end - first > 1) {
      leader.done = 0
      batch.apart = end
      return false
    }
    const outcome = this.#wiring.errors.outcomeOf(leader, error, this.#mayStore)
    if (outcome === WAITING) this.keepRest()
    else leader.outcome = outcome
    return outcome !== WAITING
  }

  /** The disk has stopped: it keeps the requests that have not been executed, except refused ones and those without a call. */
  keepRest(): void {
    const batch = this.#batch
    for (let index = batch.next; index < batch.taken; index++) {
      const { outcome, type } = batch.slot(index)
      if (outcome === OK && type !== GET_ID) this.#keep(index)
    }
    batch.next = batch.taken
  }

  /** Write-through: flushes writes before they complete, once for all executed requests. */
  stabilise(turn: Turn): void {
    const { cacheMode, executor, errors } = this.#wiring
    const batch = this.#batch
    const { queue, ring } = batch
    batch.hasWritten = false
    if (!cacheMode.writeThrough || queue === undefined || ring === undefined) return
    const written: number[] = []
    for (let index = batch.settled; index < batch.next; index++) {
      const request = batch.slot(index)
      if (request.outcome === OK && isWrite(request)) written.push(index)
    }
    const [first] = written
    if (first === undefined) return
    let answer: PromiseLike<void> | undefined
    try {
      answer = executor.flush()
    } catch (error) {
      const outcome = errors.outcomeOf(batch.slot(first), error, this.#mayStore)
      for (const index of written) {
        // After a failed flush the writes may be lost, so they are repeated too, if possible.
        if (outcome === WAITING) this.#keep(index, Number.POSITIVE_INFINITY)
        else batch.slot(index).outcome = outcome
      }
      return
    }
    if (answer === undefined) return turn.spend(FLUSH_WEIGHT, 0)
    const requests = written.flatMap((index) => batch.detach(index, index + 1))
    new Pending(this.#wiring, { queue, ring, generation: batch.generation }, requests, "stabilise").wait(answer)
  }

  /** `done`: bytes of the request that have been done. */
  #keep(index: number, done = this.#batch.slot(index).done): void {
    const { queue, ring } = this.#batch
    if (queue === undefined || ring === undefined || queue.ring !== ring) return
    const request = this.#batch.detachAlone(index, done, this.#wiring.executor.backing.zones)
    this.#wiring.errors.keep(new Pending(this.#wiring, { queue, ring, generation: this.#batch.generation }, request))
  }
}
