/**
 * Habit: predicts how the next batch is best read, from the first request of each of the last batches. Most drivers go on as they began,
 * and trying the usual way in vain costs 25 ns for a kick of one request (measured).
 */

// Ways of reading requests:

/** Straight from their descriptors: see `takeSplit` and `takePacked`. */
export const USUAL = 0
/** By the general walk, as rows: see `WalkedRequests`. */
export const WALKED = 1
/** By the general walk, as objects: see `Batch`. */
export const APART = 2

type Way = typeof USUAL | typeof WALKED | typeof APART

/** The usual way is tried again after at most 2 to this power of batches. */
const MOST_REPEATS = 6

export class Habit {
  /** How the next batch is to be read. */
  way: Way = USUAL
  /** Batches in a row that tried the usual way in vain. */
  repeats = 0
  #last: Way = USUAL
  /** Batches still to be read in the other way. */
  #left = 0

  /** The first request of a batch was not usual and was read in the given way. */
  surprise(way: typeof WALKED | typeof APART): void {
    if (this.way !== USUAL) {
      this.#left--
      if (this.#left === 0) this.way = USUAL
      return
    }
    if (way !== this.#last) this.repeats = 0
    this.#last = way
    // 0 the first time: a flush among writes is no habit.
    this.#left = (1 << this.repeats) - 1
    if (this.repeats < MOST_REPEATS) this.repeats++
    if (this.#left > 0) this.way = way
  }

  /** The first request of a batch was usual. */
  forget(): void {
    this.repeats = 0
    this.#last = USUAL
  }
}
