/** ParallelLimit: at most so many pieces of work under way at once; the others wait for their turn, first come, first served. */
export class ParallelLimit {
  readonly most: number
  #active = 0
  readonly #waiting: (() => void)[] = []

  constructor(most: number) {
    this.most = most
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.enter()
    if (turn !== undefined) await turn
    try {
      return await work()
    } finally {
      this.leave()
    }
  }

  /** Resolves when a piece of work may begin: undefined where it may now. Call `leave` when it has ended. */
  enter(): Promise<void> | undefined {
    if (this.#active >= this.most) return new Promise((resolve) => this.#waiting.push(resolve))
    this.#active++
    return undefined
  }

  leave(): void {
    // Hands its place over, so that nobody who comes in between can take it.
    const next = this.#waiting.shift()
    if (next === undefined) this.#active--
    else next()
  }
}
