/**
 * Pending: a group of requests that wait for a promise of the backing. No other code handles promises. It belongs to one ring of its queue:
 * after a reset it touches neither the guest nor, for requests that have not begun, the disk.
 */
import type { GuestMemory, Movable } from "../guest-memory.ts"
import type { InFlight, Outstanding } from "../in-flight.ts"
import type { Ring } from "../queue/ring.ts"
import { VirtqueueError } from "../queue/virtqueue-error.ts"
import type { Turn } from "../turn.ts"
import type { Virtqueue } from "../virtqueue.ts"
import { beginAgain } from "./batch.ts"
import type { Keepable } from "./errors/error-policy.ts"
import { type BlkRequest, changesDisk, isWrite, relocateAll, WAITING } from "./request.ts"
import { type BlkStatus, VIRTIO_BLK_S } from "./spec.ts"
import { FLUSH_WEIGHT, heldBytes, spend } from "./weights.ts"
import type { BlkWiring } from "./wiring.ts"

const { OK } = VIRTIO_BLK_S

/** The next step: the calls of the requests, the flush after writes (write-through), or the completion. */
type Stage = "act" | "stabilise" | "complete"

/** The origin of the requests. `generation`: of the guest memory that they point into; a call may have replaced it since. */
type PendingPlace = Pick<Outstanding, "queue" | "ring"> & { readonly generation: number }

export class Pending implements Outstanding, Keepable, Movable {
  readonly queue: Virtqueue
  readonly ring: Ring
  calling = false
  readonly #wiring: BlkWiring
  /** Of the backing that was called; the device may have another one meanwhile. */
  readonly #inFlight: InFlight
  readonly #requests: readonly BlkRequest[]
  /** Of the guest memory that the requests point into. */
  generation = 0
  #stage: Stage
  /** The backing's answer, for `run`; undefined before it. */
  #answer: { readonly error?: unknown; readonly failed: boolean } | undefined
  /** Bytes of memory that are counted for it. */
  #held = 0
  /** Number of completed requests. */
  #completed = 0
  /** Whether all requests have been completed, or each continues alone. */
  #isEnded = false
  /** Set while they are parked: called if a reset ends them. */
  #forget: (() => void) | undefined
  /** Whether guest memory may be touched for them. @throws as `Virtqueue.mayTouch` */
  readonly #mayStore = (): boolean => this.queue.mayTouch(this.ring, this)

  constructor(wiring: BlkWiring, { queue, ring, generation }: PendingPlace, requests: readonly BlkRequest[], stage: Stage = "act") {
    this.#wiring = wiring
    this.#inFlight = wiring.device.inFlight
    this.queue = queue
    this.ring = ring
    this.#requests = requests
    this.#stage = stage
    this.generation = generation
    // The backing may have reset the device inside the call: then nobody waits for this group.
    if (queue.ring === ring) this.#inFlight.add(this)
  }

  get chains(): readonly BlkRequest[] {
    return this.#requests.slice(this.#completed)
  }

  get changesDisk(): boolean {
    return this.#stage === "act" && this.#requests.slice(0, 1).some(changesDisk)
  }

  /** Waits for `answer`, to the call that has been made. */
  wait(answer: PromiseLike<void>): void {
    this.calling = true
    this.#hold()
    this.#inFlight.called(this)
    Promise.resolve(answer).then(
      () => this.#answered({ failed: false }),
      (error: unknown) => this.#answered({ failed: true, error }),
    )
  }

  forgotten(): void {
    this.#inFlight.hold(-this.#held)
    this.#held = 0
    this.#forget?.()
    this.#forget = undefined
  }

  /** Lets the requests wait until `goOn` is called. If a reset ends them, `forget` is called instead. */
  park(forget: () => void): void {
    this.#forget = forget
    this.#hold()
    this.#inFlight.park(this)
  }

  /** Ends `park`. */
  goOn(): void {
    this.#forget = undefined
    this.#inFlight.unpark(this)
    this.#wiring.device.work.add(this)
    this.#wiring.device.work.soon()
  }

  /** Continues after the backing's answer. */
  run(turn: Turn): boolean {
    const { device } = this.#wiring
    if (this.#isEnded || this.calling || this.#isParked || this.queue.ring !== this.ring) return false
    if (this.#isNew && this.#wiring.errors.stoppedBy !== undefined) {
      this.#wiring.errors.keep(this)
      return false
    }
    try {
      if (!this.#mayStore()) return this.queue.ring === this.ring
      if (!this.#proceed(turn)) return !this.calling && !this.#isEnded && !this.#isParked && this.queue.ring === this.ring
      if (!this.#complete()) return this.queue.ring === this.ring
    } catch (error) {
      // Any other error is a bug: the rest continues in the next turn.
      if (error instanceof VirtqueueError) this.#end()
      device.breakDown(this.queue, this.ring, error)
      return false
    }
    this.#end()
    // Comes last, because it may interrupt.
    device.publish(this.queue, this.ring)
    return false
  }

  /** Whether none of them has begun. */
  get #isNew(): boolean {
    return this.#stage === "act" && this.#answer === undefined && this.#requests[0]?.done === 0
  }

  get #isParked(): boolean {
    return this.#forget !== undefined
  }

  #answered(answer: { readonly error?: unknown; readonly failed: boolean }): void {
    const { device, failures } = this.#wiring
    this.calling = false
    this.#answer = answer
    if (this.#inFlight.answered(this)) {
      device.answered(this)
      return
    }
    this.forgotten()
    // The guest does not see it any more, but `onError` does.
    if (answer.failed) failures.statusOf(answer.error)
    device.oldLifeAnswered(this.changesDisk)
    failures.throwBugs()
  }

  /** Finds the requests in guest memory that may have been replaced. @throws VirtqueueError when they are not in RAM any more */
  refresh(memory: GuestMemory): void {
    const { generation } = memory
    relocateAll(this.#requests, this.#completed, this.#requests.length, memory)
    this.generation = generation
  }

  /** Continues until the turn ends or the backing has to answer. Returns true when the outcome of all requests is known. */
  #proceed(turn: Turn): boolean {
    if (this.#stage === "stabilise" && !this.#takeFlushAnswer()) return false
    return this.#stage === "complete" || (this.#act(turn) && this.#stabilise(turn))
  }

  /**
   * Completes the requests. Returns false if it has to stop, because of a reset or because bus mastering is off. A backing's call may cause
   * both, and so may the observer and `GuestMemory.written`, which may also throw; no request completes twice. @throws as `#mayStore`
   */
  #complete(): boolean {
    const { device, completion, observation } = this.#wiring
    observation?.look()
    for (;;) {
      if (!this.#mayStore()) return false
      if (this.#completed === this.#requests.length) return true
      const request = this.#requests[this.#completed++]
      if (request === undefined) continue
      completion.complete(device.memory, this.ring, request, request.outcome as BlkStatus)
      observation?.completed(this.queue.index, request, request.outcome)
    }
  }

  /** Takes the answer, and makes the remaining calls. Returns true when the outcome of all requests is known. */
  #act(turn: Turn): boolean {
    const { executor, device } = this.#wiring
    const requests = this.#requests
    const [leader] = requests
    const answer = this.#answer
    this.#answer = undefined
    if (leader === undefined) return true
    if (answer?.failed === true) return this.#failed(leader, answer.error)
    if (answer !== undefined) {
      executor.advance(requests, 0, requests.length)
      spend(turn, leader, executor.slow)
    }
    while (leader.done < leader.total) {
      if (turn.over || !device.work.open) return false
      let next: PromiseLike<void> | undefined
      try {
        next = executor.step(requests, 0, requests.length)
      } catch (error) {
        return this.#failed(leader, error)
      }
      // Bus mastering is off, since the call: the data wait like a late answer.
      if (next === undefined && !this.#mayStore() && leader.own !== undefined && this.queue.ring === this.ring) next = Promise.resolve()
      if (next !== undefined) {
        this.wait(next)
        return false
      }
      if (this.queue.ring !== this.ring) return false
      executor.advance(requests, 0, requests.length)
      spend(turn, leader, executor.slow)
    }
    for (const request of requests) request.outcome = OK
    return true
  }

  /** The call failed. If it was for several requests, each is tried alone, so that only those that fail alone get the error. */
  #failed(leader: BlkRequest, error: unknown): boolean {
    const { errors, device } = this.#wiring
    leader.own = undefined
    if (this.#requests.length > 1) {
      // Not run here, because each ends with an interrupt, whose handler may throw or reset the device.
      for (const alone of this.#apart()) device.work.add(alone)
      return false
    }
    return this.#take(errors.outcomeOf(leader, error, this.#mayStore))
  }

  /** In write-through mode, flushes writes before they complete. Returns true when they are durable, or need not be. */
  #stabilise(turn: Turn): boolean {
    const { executor, cacheMode, errors } = this.#wiring
    const [leader] = this.#requests
    // A group consists of writes only, or has none.
    if (leader === undefined || leader.outcome !== OK || !isWrite(leader) || !cacheMode.writeThrough) {
      this.#stage = "complete"
      return true
    }
    try {
      const answer = executor.flush()
      if (answer !== undefined) {
        this.#stage = "stabilise"
        this.wait(answer)
        return false
      }
      turn.spend(FLUSH_WEIGHT, 0)
    } catch (error) {
      return this.#take(errors.outcomeOf(leader, error, this.#mayStore))
    }
    this.#stage = "complete"
    return true
  }

  /** Returns true when the outcome of all requests is known. */
  #takeFlushAnswer(): boolean {
    const answer = this.#answer
    this.#answer = undefined
    const [leader] = this.#requests
    if (leader === undefined || answer?.failed !== true) return this.#take(OK)
    return this.#take(this.#wiring.errors.outcomeOf(leader, answer.error, this.#mayStore))
  }

  /** Ends all requests with `outcome`, unless the disk has stopped: then it keeps them. Returns whether they have ended. */
  #take(outcome: BlkStatus | typeof WAITING): boolean {
    if (outcome === WAITING) {
      for (const alone of this.#apart()) this.#wiring.errors.keep(alone)
      return false
    }
    for (const request of this.#requests) request.outcome = outcome
    this.#stage = "complete"
    return true
  }

  /** Splits the group: each request is repeated alone, if that is possible. Returns none if the backing has reset the queue. */
  #apart(): Pending[] {
    this.#end()
    if (this.queue.ring !== this.ring) return []
    let done = this.#requests[0]?.done ?? 0
    return this.#requests.map((request) => {
      beginAgain(request, done, this.#wiring.executor.backing.zones)
      done = Math.max(done - request.dataLength, 0)
      request.outcome = OK
      const alone = new Pending(this.#wiring, { queue: this.queue, ring: this.ring, generation: this.generation }, [request])
      alone.#hold()
      return alone
    })
  }

  /** Counts the memory that the requests hold now. */
  #hold(): void {
    const bytes = heldBytes(this.#requests)
    this.#inFlight.hold(bytes - this.#held)
    this.#held = bytes
  }

  #end(): void {
    this.#isEnded = true
    this.#inFlight.remove(this)
    this.forgotten()
  }
}
