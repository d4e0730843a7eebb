/**
 * BlockQueue: the requests of one virtqueue: waiting for descriptors, in flight, done.
 */
import type { DriverError } from "../errors.ts"
import type { RequestBuffer } from "./request-buffer.ts"
import type { IndirectTable, Segment } from "../virtio/rings/segments.ts"
import type { VirtioQueue } from "../virtio/options.ts"
import type { DriverSuspension } from "../virtio/suspension.ts"

/** A chain to send. */
export interface Submission {
  readonly queue: number
  readonly segments: readonly Segment[]
  readonly table?: IndirectTable | undefined
  /** Its memory. Left out: the caller sees to it. */
  readonly buffer?: RequestBuffer
}

/** A chain that waits for descriptors or is in flight. */
export interface Chain {
  readonly segments: readonly Segment[]
  readonly table?: IndirectTable | undefined
  /** Its memory; `isInDevice` is set while the chain is in flight. */
  readonly buffer?: RequestBuffer
  /** The device has returned it. */
  used(length: number): void
  /** It will not come back, or was never sent. */
  failed(error: Error): void
}

/** The array of waiting chains drops the ones that have left it when they are this many, and more than half of it. */
const COMPACT_AT = 1024

/** Keeps chains in order of submission and adds them to the ring as descriptors become free. */
export class BlockQueue {
  readonly queue: VirtioQueue
  readonly #isPolled: boolean
  readonly #inFlight = new Map<number, Chain>()
  #waiting: Chain[] = []
  #firstWaiting = 0
  #isPaused = false
  /** What `isLate` found last time: the index of the first used entry that was not taken. */
  #untaken: number | undefined

  /** `isPolled`: nobody wants notifications. */
  constructor(queue: VirtioQueue, options: { readonly isPolled: boolean }) {
    this.queue = queue
    this.#isPolled = options.isPolled
  }

  /** Chains that wait for descriptors. */
  get waiting(): number {
    return this.#waiting.length - this.#firstWaiting
  }

  /** Some chain is in flight or waits. */
  get isBusy(): boolean {
    return this.#inFlight.size > 0 || this.waiting > 0
  }

  /** Whether a used entry that was there at the last call still is: no interrupt has announced it. */
  isLate(): boolean {
    const { ring } = this.queue
    const untaken = ring.hasUsed ? ring.lastUsed : undefined
    const isLate = untaken !== undefined && untaken === this.#untaken
    this.#untaken = untaken
    return isLate
  }

  /** Adds a chain to the ring, or to those that wait. The owner exposes the ring afterwards. */
  submit(chain: Chain): void {
    if (this.#isPaused || this.waiting > 0 || !this.#start(chain)) this.#waiting.push(chain)
  }

  /** Registers a chain that somebody has written by hand into descriptors reserved in the ring. */
  expect(head: number, chain: Chain): void {
    this.#inFlight.set(head, chain)
  }

  /**
   * Takes what the device has returned. Returns whether there was anything.
   * @throws DriverError as `SplitRing.takeUsed` does
   */
  drain(): boolean {
    const ring = this.queue.ring
    let found = false
    for (;;) {
      for (let used = ring.takeUsed(); used !== undefined; used = ring.takeUsed()) {
        found = true
        const chain = this.#inFlight.get(used.id)
        this.#inFlight.delete(used.id)
        if (chain?.buffer !== undefined) chain.buffer.isInDevice = false
        chain?.used(used.length)
      }
      if (this.#isPolled || ring.requestNotifications()) return found
    }
  }

  /** Makes all chains wait until `resume`. */
  pause(): void {
    this.#isPaused = true
  }

  /** Lets chains into the ring again, with the next `refill`. */
  resume(): void {
    this.#isPaused = false
  }

  /** Moves waiting chains into the ring while there is room. */
  refill(): void {
    if (this.#isPaused) return
    while (this.#firstWaiting < this.#waiting.length) {
      const chain = this.#waiting[this.#firstWaiting]
      if (chain === undefined || !this.#start(chain)) return this.#compact()
      this.#firstWaiting++
    }
    this.#waiting = []
    this.#firstWaiting = 0
  }

  /** Fails all chains. Returns them: the device may use their memory until it is reset. */
  fail(error: DriverError): Chain[] {
    const lost = [...this.#inFlight.values(), ...this.#waiting.slice(this.#firstWaiting)]
    this.#inFlight.clear()
    this.#waiting = []
    this.#firstWaiting = 0
    for (const chain of lost) chain.failed(error)
    return lost
  }

  #compact(): void {
    if (this.#firstWaiting < COMPACT_AT || this.#firstWaiting < this.waiting) return
    this.#waiting = this.#waiting.slice(this.#firstWaiting)
    this.#firstWaiting = 0
  }

  #start(chain: Chain): boolean {
    const ring = this.queue.ring
    const needed = chain.table === undefined ? chain.segments.length : (chain.table.direct ?? 0) + 1
    if (needed > ring.freeDescriptors) return false
    this.#inFlight.set(ring.add(chain.segments, chain.table), chain)
    if (chain.buffer !== undefined) chain.buffer.isInDevice = true
    return true
  }
}

/** Suspends the device; chains wait until `resumeQueues`. @throws DriverError: then they do not */
export async function suspendQueues(queues: readonly BlockQueue[], suspension: DriverSuspension): Promise<void> {
  for (const queue of queues) queue.pause()
  try {
    await suspension.suspend()
  } catch (error) {
    for (const queue of queues) queue.resume()
    throw error
  }
}

/** Ends it. @throws DriverError */
export async function resumeQueues(queues: readonly BlockQueue[], suspension: DriverSuspension): Promise<void> {
  await suspension.resume()
  for (const queue of queues) queue.resume()
}
