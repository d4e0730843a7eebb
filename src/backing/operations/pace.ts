/** Pace: limits the rate of an operation, in bytes a second. */

/** A clock, which tests replace. */
export interface PaceClock {
  /** Milliseconds since some moment. */
  now(): number
  sleep(ms: number): Promise<void>
}

const HOST_CLOCK: PaceClock = {
  now: () => performance.now(),
  sleep: (ms) => new Promise((resolve) => void setTimeout(resolve, ms)),
}

/** Maximum of milliseconds between two checks for a stop. */
const LONGEST_SLEEP = 100

export class Pace {
  readonly #rate: number | undefined
  readonly #clock: PaceClock
  /** Time from which the next bytes may be spent. */
  #free = -Infinity

  /** `rate`: bytes a second; undefined is no limit. */
  constructor(rate: number | undefined, clock: PaceClock = HOST_CLOCK) {
    this.#rate = rate
    this.#clock = clock
  }

  /** Waits until the rate allows for `bytes`, which have been done. `check` may throw, to stop waiting. */
  async spend(bytes: number, check: () => void): Promise<void> {
    if (this.#rate === undefined || bytes === 0) return
    this.#free = Math.max(this.#free, this.#clock.now()) + (bytes / this.#rate) * 1000
    for (let left = this.#free - this.#clock.now(); left > 0; left = this.#free - this.#clock.now()) {
      await this.#clock.sleep(Math.min(left, LONGEST_SLEEP))
      check()
    }
  }
}
