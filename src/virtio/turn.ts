/**
 * Turn: how much of the host's thread one kick, or one answer of the backing, may take before the event loop gets the thread back.
 * A look at the clock costs 30 to 40 ns, as much as a small request, so it is taken after some work only.
 */

/** Milliseconds of a turn, from the first look at the clock on. */
const TURN_MS = 5
/** Bytes that a turn moves at most, whatever the clock says. */
export const TURN_BYTES = 16 << 20
/** Work between two looks, in bytes moved or what takes as long. */
export const LOOK_WEIGHT = 1 << 20
/** Milliseconds between two looks after which the next one comes sooner: the backing is slow. */
const SLOW_MS = 1
/** Milliseconds that count between two looks: a host that runs something else meanwhile does not make a short turn a long one. */
const COUNTED_MS = 2
/** After so many intervals in a row that are as long as a turn, the whole of them counts: the backing itself takes them. */
const LONG_INTERVALS = 3

export class Turn {
  /** The rest of the work is for later. */
  over = false
  #weight = 0
  #bytes = 0
  /** Milliseconds counted in this turn. */
  #spent = 0
  /** `performance.now()` at the last look of this turn, or at its start. */
  #looked = 0
  #hasLooked = false
  /** Work until the next look. It outlives the turn. */
  #pace = LOOK_WEIGHT
  /** Intervals between two looks, in this turn and those before, that were as long as a turn, one after the other. */
  #longIntervals = 0

  begin(): void {
    this.over = false
    this.#weight = 0
    this.#bytes = 0
    if (this.#hasLooked) this.#forgetTime()
  }

  /** Apart from `begin`, for few turns of small requests come to a look. */
  #forgetTime(): void {
    this.#spent = 0
    // Where one call takes as long as a turn the first counts as well; a look costs nothing beside it.
    this.#hasLooked = this.#longIntervals >= LONG_INTERVALS
    if (this.#hasLooked) this.#looked = performance.now()
  }

  /** Counts `bytes` that were moved, and `weight`: the work in all, in bytes or what takes as long. */
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
