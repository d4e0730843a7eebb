/** Records the received bytes of one READ: every byte must come exactly once, in chunks of any order. */

/** Maximum of gaps between chunks: a server that sends more pieces out of order is refused. */
const MOST_RUNS = 4096

export class Coverage {
  readonly #length: number
  /** Contiguous bytes from the start. */
  #front = 0
  /** Runs after the front, as [start, end), sorted, with gaps between them. */
  #runs: [start: number, end: number][] = []

  /** @param length bytes of the READ */
  constructor(length: number) {
    this.#length = length
  }

  get isComplete(): boolean {
    return this.#front === this.#length
  }

  /** Takes `length` > 0 bytes at `start`, counted from the READ's own. Returns false if they are outside it, or some came before. */
  claim(start: number, length: number): boolean {
    if (start < this.#front || length > this.#length - start) return false
    const end = start + length
    const next = this.#runs.findIndex((run) => run[1] > start)
    const behind = next < 0 ? this.#runs.length : next
    const after = this.#runs[behind]
    if (after !== undefined && after[0] < end) return false
    if (start === this.#front) {
      this.#front = end
    } else {
      this.#insert(behind, start, end)
    }
    const first = this.#runs[0]
    if (first !== undefined && first[0] === this.#front) {
      this.#front = first[1]
      this.#runs.shift()
    }
    return this.#runs.length <= MOST_RUNS
  }

  #insert(at: number, start: number, end: number): void {
    const before = this.#runs[at - 1]
    const after = this.#runs[at]
    const joinsBefore = before !== undefined && before[1] === start
    const joinsAfter = after !== undefined && after[0] === end
    if (joinsBefore && joinsAfter) {
      before[1] = after[1]
      this.#runs.splice(at, 1)
    } else if (joinsBefore) {
      before[1] = end
    } else if (joinsAfter) {
      after[0] = start
    } else {
      this.#runs.splice(at, 0, [start, end])
    }
  }
}
