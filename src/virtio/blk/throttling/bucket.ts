/**
 * Bucket: one limit of a rate. What is taken fills it, and time drains it: while it is filled beyond its capacity nothing more may be
 * taken. So a request of any size gets through, and pays afterwards.
 */

/** The share of the capacity that may be taken between two looks at the clock: a look takes as long as a small request. */
const UNSEEN = 1 / 8

export class Bucket {
  /** Units a second that drain. */
  readonly rate: number
  /** Units that may be taken at once after a rest. */
  readonly capacity: number
  #level = 0
  /** Taken since the last look at the clock. Counted as if it had been taken at the next one: time before it drains nothing of it. */
  #unseen = 0
  #seenAt: number

  /** `now`: milliseconds. */
  constructor(rate: number, capacity: number, now: number) {
    this.rate = rate
    this.capacity = capacity
    this.#seenAt = now
  }

  /** Units that may be taken before anything has to wait, at least. */
  get room(): number {
    return Math.max(this.capacity - this.#level - this.#unseen, 0)
  }

  /** How full it is: 1 is its capacity. It may be more. */
  get fill(): number {
    return (this.#level + this.#unseen) / this.capacity
  }

  set fill(fill: number) {
    this.#level = fill * this.capacity
    this.#unseen = 0
  }

  /** Takes over from `old`, at `now`: as full as that is, and what it was overdrawn by is still to be paid. */
  continue(old: Bucket, now: number): void {
    old.wait(now)
    this.fill = Math.min(old.fill, 1)
    this.#level += Math.max(old.#level - old.capacity, 0)
  }

  /** Something may be taken now. `clock` is asked only where that matters. */
  isReady(clock: { now(): number }): boolean {
    if (this.#unseen <= this.capacity * UNSEEN && this.#level + this.#unseen <= this.capacity) return true
    return this.wait(clock.now()) === 0
  }

  /** Units that may be taken before `isReady` asks for the time, none if they must be asked for. */
  get untilClock(): number {
    return Math.max(Math.min(this.capacity * UNSEEN - this.#unseen, this.capacity - this.#level - this.#unseen), 0)
  }

  take(units: number): void {
    this.#unseen += units
  }

  /** Milliseconds from `now` until something may be taken. */
  wait(now: number): number {
    const drained = (this.rate * Math.max(now - this.#seenAt, 0)) / 1000
    this.#level = Math.max(this.#level - drained, 0) + this.#unseen
    this.#unseen = 0
    this.#seenAt = now
    return Math.max(((this.#level - this.capacity) / this.rate) * 1000, 0)
  }
}
