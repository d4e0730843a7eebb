/** The clock of the client, so that tests can replace it. */

export interface Timer {
  /** Milliseconds since some moment. */
  now(): number
  /** Calls `task` once, `delay` milliseconds from now. Returns a function that cancels it. */
  after(delay: number, task: () => void): () => void
}

export const hostTimer: Timer = {
  now: () => performance.now(),
  after(delay, task) {
    const timeout = setTimeout(task, delay)
    return () => clearTimeout(timeout)
  },
}
