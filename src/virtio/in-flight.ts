/**
 * InFlight: the requests of all queues that wait for the backing: how many calls have not been answered, which of them are from before a
 * reset, and how much memory they hold.
 */
import type { Ring, TakenChain } from "./queue/ring.ts"
import type { Virtqueue } from "./virtqueue.ts"
import type { Task, Work } from "./work.ts"

/** Requests that outlive their kick. As a task, they continue after an answer of the backing. */
export interface Outstanding extends Task {
  readonly queue: Virtqueue
  /** The ring that they were taken from. A reset gives the queue another one. */
  readonly ring: Ring
  /** Whether the backing has been called and has not answered. */
  readonly calling: boolean
  /** Whether the call may change the disk, so that requests from after a reset must wait for it. */
  readonly changesDisk: boolean
  /** Their chains. */
  readonly chains: readonly TakenChain[]
  /** Called after a reset, when the backing has answered: they release their memory. */
  forgotten(): void
}

/** Maximum of bytes that requests in flight hold, descriptors and buffers. At this bound the device takes no more until answers come. */
const MAX_HELD_BYTES = 32 << 20

export class InFlight {
  /** Those that no reset has ended, in order of arrival. */
  readonly #wanted = new Set<Outstanding>()
  /** Those of them that wait for an event other than an answer of the backing. */
  readonly #parked = new Set<Outstanding>()
  #calls = 0
  #oldChanges = 0
  #heldBytes = 0
  /** Tasks that wait until less memory is held. */
  readonly #waiting = new Set<Task>()
  readonly #work: Work
  #unused: (() => void)[] = []

  constructor(work: Work) {
    this.#work = work
  }

  /** Unanswered calls of the backing, including those from before a reset. */
  get calls(): number {
    return this.#calls
  }

  /**
   * Unanswered calls from before a reset that may still change the disk. No request is served meanwhile: an old write could overwrite a new
   * one.
   */
  get oldChanges(): number {
    return this.#oldChanges
  }

  /** Groups of requests that are neither completed nor parked nor ended by a reset. */
  get count(): number {
    return this.#wanted.size - this.#parked.size
  }

  /** Like `count`, including the parked ones: for waiting until all requests have ended. */
  get countWithParked(): number {
    return this.#wanted.size
  }

  /** Whether no more requests may be taken until some in flight have completed. */
  get full(): boolean {
    return this.#heldBytes >= MAX_HELD_BYTES
  }

  get heldBytes(): number {
    return this.#heldBytes
  }

  /** Adds `bytes` (negative: released) to the memory held. Tasks that waited for it run later, because a reset may be in progress. */
  hold(bytes: number): void {
    this.#heldBytes += bytes
    if (this.#waiting.size === 0 || this.full) return
    for (const task of this.#waiting) this.#work.add(task)
    this.#waiting.clear()
    this.#work.soon()
  }

  /** Runs `task` once less memory is held. */
  waitForMemory(task: Task): void {
    this.#waiting.add(task)
  }

  add(one: Outstanding): void {
    this.#wanted.add(one)
  }

  remove(one: Outstanding): void {
    this.#wanted.delete(one)
  }

  /** `one`, which has no call in progress, waits for another event: it counts as idle, and is saved. */
  park(one: Outstanding): void {
    if (this.#wanted.has(one)) this.#parked.add(one)
  }

  unpark(one: Outstanding): void {
    this.#parked.delete(one)
  }

  /** The backing has been called for `one`, and will answer later. */
  called(one: Outstanding): void {
    this.#calls++
    if (!this.#wanted.has(one) && one.changesDisk) this.#oldChanges++
  }

  /** The backing has answered the call of `one`. Returns false if a reset has ended it. */
  answered(one: Outstanding): boolean {
    this.#calls--
    if (this.#calls === 0) for (const resolve of this.#unused.splice(0)) resolve()
    if (this.#wanted.has(one)) return true
    if (one.changesDisk) this.#oldChanges--
    return false
  }

  /** Removes and returns those whose queue was reset: it has another ring now, or none. */
  forgetDead(): Outstanding[] {
    const dead = [...this.#wanted].filter(({ queue, ring }) => queue.ring !== ring)
    for (const one of dead) {
      this.#wanted.delete(one)
      this.#parked.delete(one)
      if (!one.calling) one.forgotten()
      else if (one.changesDisk) this.#oldChanges++
    }
    return dead
  }

  /** Resolves when every call has been answered. */
  whenAnswered(): Promise<void> {
    return this.#calls === 0 ? Promise.resolve() : new Promise((resolve) => this.#unused.push(resolve))
  }

  /** The chains of `queue` that are in flight. */
  chains(queue: Virtqueue): TakenChain[] {
    return [...this.#wanted].filter((one) => one.queue === queue).flatMap(({ chains }) => chains)
  }
}
