/**
 * InFlight: the requests of a device that wait for its backing, of all queues: how many calls have not been answered, which of them
 * belong to a life that a reset has ended, and how much memory they hold.
 */
import type { Ring, TakenChain } from "./queue/ring.ts"
import type { Virtqueue } from "./virtqueue.ts"
import type { Task, Work } from "./work.ts"

/** Requests that outlive the kick that brought them. As a task they go on with what the backing has answered. */
export interface Outstanding extends Task {
  readonly queue: Virtqueue
  /** The life of the queue that they belong to. */
  readonly ring: Ring
  /** The backing has been called and has not answered. */
  readonly calling: boolean
  /** What the call may do to the disk matters to requests that come after a reset. */
  readonly changesDisk: boolean
  /** Their chains. */
  readonly chains: readonly TakenChain[]
  /** A reset has ended their life, and no call is out: they release what they hold. */
  forgotten(): void
}

/** Bytes that requests in flight hold at most, descriptors and buffers: at this bound the device takes no more until answers come. */
const MAX_HELD_BYTES = 32 << 20

export class InFlight {
  /** Those of the present lives, in the order in which they came. */
  readonly #wanted = new Set<Outstanding>()
  /** Those of them that wait for somebody to let them go on, and use nothing meanwhile. */
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

  /** Calls on the backing that have not been answered, of all lives. */
  get calls(): number {
    return this.#calls
  }

  /** Calls of ended lives that may still change the disk: no request is served meanwhile, lest an old write land on a newer one. */
  get oldChanges(): number {
    return this.#oldChanges
  }

  /** Groups of requests that have not been completed, of present lives, and are not parked. */
  get count(): number {
    return this.#wanted.size - this.#parked.size
  }

  /** Those that are parked count as well: whoever waits for all requests to come to their end asks for this. */
  get countWithParked(): number {
    return this.#wanted.size
  }

  /** No more requests are to be taken until some of those in flight are through. */
  get full(): boolean {
    return this.#heldBytes >= MAX_HELD_BYTES
  }

  get heldBytes(): number {
    return this.#heldBytes
  }

  /** Counts `bytes` of memory as held; fewer than 0 are released. What waited for that goes on later: a reset may be under way. */
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

  /** `one`, which is not calling, waits for somebody to let it go on: it counts as idle, and is saved. */
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

  /** The backing has answered the call of `one`. Returns false when nobody wants the answer any more. */
  answered(one: Outstanding): boolean {
    this.#calls--
    if (this.#calls === 0) for (const resolve of this.#unused.splice(0)) resolve()
    if (this.#wanted.has(one)) return true
    if (one.changesDisk) this.#oldChanges--
    return false
  }

  /** Ends the lives of those whose queue has another ring now, or none. Returns them. */
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
