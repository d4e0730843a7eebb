/** Which bytes of one READ have come: every byte must come once, in chunks of any order. */

/** Gaps between chunks that are remembered: a server that sends more pieces out of order than this is refused. */
const MOST_RUNS = 4096

export class Coverage {
  readonly #length: number
  /** Bytes from the start that have come. */
  #front = 0
  /** Runs behind the front, as [start, end), sorted, with gaps between them. */
  #runs: [start: number, end: number][] = []

  /** @param length bytes of the READ */
  constructor(length: number) {
    this.#length = length
  }

  get isComplete(): boolean {
    return this.#front === this.#length
  }

  /** Takes `length` > 0 bytes at `start`, counted from the READ's own. Returns false when they are outside of it, or some came before. */
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
