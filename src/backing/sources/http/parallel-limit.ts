/** ParallelLimit limits the tasks that run at a time. The others wait, first come, first served. */
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

  /** Resolves when a task may begin. Undefined if it may begin now. Call `leave` when the task has ended. */
  enter(): Promise<void> | undefined {
    if (this.#active >= this.most) return new Promise((resolve) => this.#waiting.push(resolve))
    this.#active++
    return undefined
  }

  leave(): void {
    // Hands the place over, so that no task that comes in between can take it.
    const next = this.#waiting.shift()
    if (next === undefined) this.#active--
    else next()
  }
}
