/** ParallelLimit: at most so many pieces of work under way at once; the others wait for their turn, first come, first served. */
export class ParallelLimit {
  readonly most: number
  #active = 0
  readonly #waiting: (() => void)[] = []

  constructor(most: number) {
    this.most = most
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#active >= this.most) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    else this.#active++
    try {
      return await work()
    } finally {
      // Hands its place over, so that nobody who comes in between can take it.
      const next = this.#waiting.shift()
      if (next === undefined) this.#active--
      else next()
    }
  }
}
