/**
 * Scheduler: shares the host's thread among the clients of a server: one piece of work each, in turns of some milliseconds, with the event
 * loop in between.
 */

/** Milliseconds of a turn. */
const TURN_MS = 4

/** A client with work in pieces. */
export interface Worker {
  /** Set by the scheduler: whether it is queued. */
  isQueued: boolean
  /** Does one piece, of about a millisecond at most. Returns false if there is no more to do until it is added again. */
  step(): boolean
  /** Its turn has ended: it sends the collected answers. */
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

  /** Continues the turn. All sockets with data in one round of the event loop share a turn. */
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
        // Reading the clock takes 40 ns, a piece of work at least 3000.
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
