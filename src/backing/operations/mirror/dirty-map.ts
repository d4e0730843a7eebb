/** DirtyMap: the changed parts of a disk, in a few mebibytes of memory at most. */

/** Minimum bytes of one mark, and maximum number of marks. */
const LEAST_GRAIN = 1 << 16
const MOST_MARKS = 1 << 24

export interface DirtyRun {
  readonly offset: number
  readonly length: number
}

export class DirtyMap {
  /** Bytes that one mark covers. */
  readonly grain: number
  readonly #size: number
  readonly #marks: Uint8Array
  #count = 0

  /** `size`: bytes of the disk; nothing is marked. */
  constructor(size: number) {
    let grain = LEAST_GRAIN
    while (size / grain > MOST_MARKS) grain *= 2
    this.grain = grain
    this.#size = size
    this.#marks = new Uint8Array(Math.ceil(size / grain))
  }

  /** Number of marked bytes. */
  get dirtyBytes(): number {
    return Math.min(this.#count * this.grain, this.#size)
  }

  /** Marks all parts that the range touches. */
  mark(offset: number, length: number): void {
    if (length <= 0) return
    const last = Math.min(Math.floor((offset + length - 1) / this.grain), this.#marks.length - 1)
    for (let index = Math.floor(offset / this.grain); index <= last; index++) {
      if (this.#marks[index] === 0) this.#count++
      this.#marks[index] = 1
    }
  }

  /** Removes and returns the first run of marked parts from `offset` on, of at most `most` bytes; undefined if there is none. */
  take(offset: number, most: number): DirtyRun | undefined {
    const first = this.#marks.indexOf(1, Math.ceil(offset / this.grain))
    if (first < 0) return undefined
    const end = Math.min(first + Math.max(1, Math.floor(most / this.grain)), this.#marks.length)
    let last = first
    while (last < end && this.#marks[last] === 1) this.#marks[last++] = 0
    this.#count -= last - first
    const start = first * this.grain
    return { offset: start, length: Math.min(last * this.grain, this.#size) - start }
  }
}
