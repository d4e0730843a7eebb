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
  /** When the turn ends, by `performance.now()`; undefined until something is done after the event loop has turned. */
  #end: number | undefined

  /** `worker` has work. It may begin within this call. */
  add(worker: Worker): void {
    this.#enqueue(worker)
    if (!this.#isRunning) this.#run()
  }

  /** Goes on with the turn. Many sockets may have something in one round of the event loop: they share one turn. */
  #run(): void {
    const now = performance.now()
    this.#end ??= this.#beginTurn(now)
    if (now >= this.#end) return
    this.#isRunning = true
    try {
      do {
        const worker = this.#queue.shift()
        if (worker === undefined) return
        worker.isQueued = false
        if (worker.step()) this.#enqueue(worker)
        else worker.flush()
        // A look at the clock costs 40 ns, a piece of work 3000 and more.
      } while (performance.now() < this.#end)
      for (const worker of this.#queue) worker.flush()
    } finally {
      this.#isRunning = false
    }
  }

  #enqueue(worker: Worker): void {
    if (worker.isQueued) return
    worker.isQueued = true
    this.#queue.push(worker)
  }

  #beginTurn(now: number): number {
    setImmediate(() => {
      this.#end = undefined
      if (this.#queue.length > 0) this.#run()
    })
    return now + TURN_MS
  }
}
