/** SavedHeads: the heads of chains of a split ring that were in flight when its state was saved, to be taken again. */
export class SavedHeads {
  readonly #heads: readonly number[]
  #taken = 0

  constructor(heads: readonly number[]) {
    this.#heads = heads
  }

  /** The heads that have not been taken again. */
  get left(): readonly number[] {
    return this.#heads.slice(this.#taken)
  }

  get isEmpty(): boolean {
    return this.#taken === this.#heads.length
  }

  /** The first head that is left; `pass` goes to the one after it. */
  get next(): number {
    const head = this.#heads[this.#taken]
    if (head === undefined) throw new Error("no heads are left to take again")
    return head
  }

  pass(): void {
    this.#taken++
  }
}
