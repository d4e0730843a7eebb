/** The clock of the client, so that tests have one of their own. */

export interface Timer {
  /** Milliseconds since some moment. */
  now(): number
  /** Calls `task` once, `delay` milliseconds from now. Returns what takes it back. */
  after(delay: number, task: () => void): () => void
}

export const hostTimer: Timer = {
  now: () => performance.now(),
  after(delay, task) {
    const timeout = setTimeout(task, delay)
    return () => clearTimeout(timeout)
  },
}
