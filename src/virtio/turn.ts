/**
 * Turn: bounds the time for which one kick, or one answer of the backing, holds the host's thread. Reading the clock takes 30 to 40 ns, as
 * long as a small request, so it is read only after some work.
 */

/** Milliseconds of a turn, from the first reading of the clock on. */
const TURN_MS = 5
/** Maximum of bytes that a turn moves, whatever the clock says. */
export const TURN_BYTES = 16 << 20
/** Work between two readings of the clock, in bytes moved or other work of the same duration. */
export const LOOK_WEIGHT = 1 << 20
/** After an interval of this many milliseconds the backing counts as slow, and the clock is read more often. */
const SLOW_MS = 1
/** Maximum of milliseconds that one interval counts: the host may have run another program meanwhile. */
const COUNTED_MS = 2
/** After so many intervals in a row as long as a turn, each counts in full: then the backing itself is that slow. */
const LONG_INTERVALS = 3

export class Turn {
  /** Whether the turn has ended, so that the rest of the work has to wait. */
  over = false
  #weight = 0
  #bytes = 0
  /** Milliseconds counted in this turn. */
  #spent = 0
  /** `performance.now()` at the last reading in this turn, or at its start. */
  #looked = 0
  #hasLooked = false
  /** Work until the next reading. Kept from turn to turn. */
  #pace = LOOK_WEIGHT
  /** Consecutive intervals, in this turn and earlier ones, that were as long as a turn. */
  #longIntervals = 0

  begin(): void {
    this.over = false
    this.#weight = 0
    this.#bytes = 0
    if (this.#hasLooked) this.#forgetTime()
  }

  /** Separate from `begin`, because few turns with small requests read the clock. */
  #forgetTime(): void {
    this.#spent = 0
    // If one call takes as long as a turn, the first call has to count too; reading the clock is cheap beside it.
    this.#hasLooked = this.#longIntervals >= LONG_INTERVALS
    if (this.#hasLooked) this.#looked = performance.now()
  }

  /** Counts `bytes` that were moved, and `weight`: all the work, as bytes moved in the same time. */
  spend(weight: number, bytes: number): void {
    this.#bytes += bytes
    this.#weight += weight
    if (this.#weight >= this.#pace) this.#look()
  }

  #look(): void {
    if (this.over) return
    const now = performance.now()
    if (this.#hasLooked) {
      const elapsed = now - this.#looked
      this.#longIntervals = elapsed >= TURN_MS ? this.#longIntervals + 1 : 0
      this.#spent += this.#longIntervals > LONG_INTERVALS ? elapsed : Math.min(elapsed, COUNTED_MS)
      this.#pace = elapsed > SLOW_MS ? Math.max(this.#pace / 8, 1) : Math.min(2 * this.#pace, LOOK_WEIGHT)
    }
    this.#looked = now
    this.#hasLooked = true
    this.#weight = 0
    this.over = this.#bytes >= TURN_BYTES || this.#spent >= TURN_MS
  }
}
