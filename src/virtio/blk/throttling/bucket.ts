/**
 * Bucket: a rate limit. Requests fill it, and time drains it; while it is filled beyond its capacity, requests wait. So a request of any
 * size passes, and pays afterwards.
 */

/** The share of the capacity that may be taken without reading the clock, which takes as long as a small request. */
const UNSEEN = 1 / 8

export class Bucket {
  /** Units a second that drain. */
  readonly rate: number = 0
  /** Units that may be taken at once after a pause. */
  readonly capacity: number = 0
  #level = 0
  /** Units taken since the clock was last read. They count as taken at the next reading, so earlier time does not drain them. */
  #unseen = 0
  #seenAt = 0

  /** `now`: milliseconds. */
  constructor(rate: number, capacity: number, now: number) {
    this.rate = rate
    this.capacity = capacity
    this.#seenAt = now
  }

  /** Units that may at least be taken before requests have to wait. */
  get room(): number {
    return Math.max(this.capacity - this.#level - this.#unseen, 0)
  }

  /** Its level: 1 is its capacity. It may be more. */
  get fill(): number {
    return (this.#level + this.#unseen) / this.capacity
  }

  set fill(fill: number) {
    this.#level = fill * this.capacity
    this.#unseen = 0
  }

  /** Copies the level of `old` at `now`, including its debt. */
  continue(old: Bucket, now: number): void {
    old.wait(now)
    this.fill = Math.min(old.fill, 1)
    this.#level += Math.max(old.#level - old.capacity, 0)
  }

  /** Whether units may be taken now. Reads `clock` only if necessary. */
  isReady(clock: { now(): number }): boolean {
    if (this.#unseen <= this.capacity * UNSEEN && this.#level + this.#unseen <= this.capacity) return true
    return this.wait(clock.now()) === 0
  }

  /** Units that may be taken before `isReady` reads the clock. */
  get untilClock(): number {
    return Math.max(Math.min(this.capacity * UNSEEN - this.#unseen, this.capacity - this.#level - this.#unseen), 0)
  }

  take(units: number): void {
    this.#unseen += units
  }

  /** Milliseconds from `now` until units may be taken. */
  wait(now: number): number {
    const drained = (this.rate * Math.max(now - this.#seenAt, 0)) / 1000
    this.#level = Math.max(this.#level - drained, 0) + this.#unseen
    this.#unseen = 0
    this.#seenAt = now
    return Math.max(((this.#level - this.capacity) / this.rate) * 1000, 0)
  }
}
