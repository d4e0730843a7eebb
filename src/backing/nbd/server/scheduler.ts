/**
 * Scheduler: lends the host's thread to the clients of a server, one piece of work each in turn, for some milliseconds at a time. The
 * event loop has its turn in between.
 */

/** Milliseconds of a turn. */
const TURN_MS = 4

/** Somebody with work in pieces. */
export interface Worker {
  /** Of the scheduler's: whether it stands in line. */
  isQueued: boolean
  /** Does one piece, of about a millisecond at most. Returns false when there is no more to do until it is added again. */
  step(): boolean
  /** Its turn is over: what it has collected should go out. */
  flush(): void
}

export class Scheduler {
  readonly #queue: Worker[] = []
  #isRunning = false
  #isPlanned = false

  /** `worker` has work. It may begin within this call. */
  add(worker: Worker): void {
    if (worker.isQueued) return
    worker.isQueued = true
    this.#queue.push(worker)
    if (!this.#isRunning && !this.#isPlanned) this.#run()
  }

  #run(): void {
    this.#isRunning = true
    const end = performance.now() + TURN_MS
    try {
      do {
        const worker = this.#queue.shift()
        if (worker === undefined) return
        worker.isQueued = false
        if (worker.step()) this.#requeue(worker)
        else worker.flush()
        // A look at the clock costs 40 ns, a piece of work 3000 and more.
      } while (performance.now() < end)
      for (const worker of this.#queue) worker.flush()
    } finally {
      this.#isRunning = false
      if (this.#queue.length > 0) this.#plan()
    }
  }

  #requeue(worker: Worker): void {
    if (worker.isQueued) return
    worker.isQueued = true
    this.#queue.push(worker)
  }

  #plan(): void {
    this.#isPlanned = true
    setImmediate(() => {
      this.#isPlanned = false
      this.#run()
    })
  }
}
