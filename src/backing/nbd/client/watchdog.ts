/** Detects a request that is not answered in time. */
import type { Command } from "./command.ts"
import type { Timer } from "./timer.ts"

export interface Watched {
  /** The commands that wait for an answer. */
  inFlight(): Iterable<Command>
  /** One of them has timed out. */
  timedOut(): void
}

export class Watchdog {
  readonly #timer: Timer
  readonly #timeout: number
  readonly #watched: Watched
  #cancel: (() => void) | undefined

  /** @param timeout milliseconds; 0: no limit */
  constructor(timer: Timer, timeout: number, watched: Watched) {
    this.#timer = timer
    this.#timeout = timeout
    this.#watched = watched
  }

  sending(command: Command): void {
    if (this.#timeout === 0) return
    command.sentAt = this.#timer.now()
    if (this.#cancel === undefined) this.#arm(this.#timeout)
  }

  stop(): void {
    this.#cancel?.()
    this.#cancel = undefined
  }

  #arm(delay: number): void {
    this.#cancel = this.#timer.after(delay, () => this.#look())
  }

  #look(): void {
    this.#cancel = undefined
    let oldest = Number.POSITIVE_INFINITY
    for (const { sentAt } of this.#watched.inFlight()) oldest = Math.min(oldest, sentAt)
    if (oldest === Number.POSITIVE_INFINITY) return
    const left = oldest + this.#timeout - this.#timer.now()
    if (left > 0) this.#arm(left)
    else this.#watched.timedOut()
  }
}
