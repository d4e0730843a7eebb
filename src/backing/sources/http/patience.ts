/**
 * Patience limits how long to wait for a request: it ends after some time without a byte, and at a deadline. Without the deadline, a server
 * that sends a byte now and then could hold a read for as long as it likes.
 */
import { type Clock, TransientError } from "./retry.ts"

export interface PatienceOptions {
  /** Milliseconds without a byte after which a request counts as lost. */
  readonly timeout: number
  readonly clock: Clock
}

/** Bytes per second that a server must send on average in one try. A modem of 1998 has half of it, and gets through by retrying. */
const LEAST_RATE = 16_384

/** The error that ends a try at its deadline. */
export function tooSlow(): TransientError {
  return new TransientError(TOO_SLOW)
}

const TOO_SLOW = `the server sends less than ${LEAST_RATE / 1024} KiB a second`

/** The deadline, by the clock, of a try that begins now and requests `length` bytes. */
export function deadlineOf(length: number, { timeout, clock }: PatienceOptions): number {
  return clock.now() + timeout + (length / LEAST_RATE) * 1000
}

export class Patience {
  /** Why the wait has ended; undefined while it goes on. */
  reason: string | undefined
  readonly #options: PatienceOptions
  readonly #deadline: number
  readonly #end: () => void
  /** When the last bytes came, for the single timer to check: a timer for each piece costs more than the piece. */
  #last: number
  #cancel: () => void
  #isPaused = false

  /** Calls `end` once, unless this is stopped before. */
  constructor(options: PatienceOptions, deadline: number, end: () => void) {
    this.#options = options
    this.#deadline = deadline
    this.#end = end
    this.#last = options.clock.now()
    this.#cancel = this.#wait()
  }

  /** Bytes have come. */
  restart(): void {
    this.#last = this.#options.clock.now()
    if (!this.#isPaused) return
    this.#isPaused = false
    this.#cancel = this.#wait()
  }

  /** Until `restart`, the server is not to blame for the time. */
  pause(): void {
    this.#cancel()
    this.#isPaused = true
  }

  stop(): void {
    this.#cancel()
  }

  #wait(): () => void {
    const { timeout, clock } = this.#options
    const delay = Math.max(0, Math.min(this.#last + timeout, this.#deadline) - clock.now())
    return clock.after(delay, () => this.#look())
  }

  #look(): void {
    const { timeout, clock } = this.#options
    const now = clock.now()
    if (now - this.#last >= timeout) this.reason = `the server sent nothing for ${timeout / 1000} s`
    else if (now >= this.#deadline) this.reason = TOO_SLOW
    if (this.reason === undefined) this.#cancel = this.#wait()
    else this.#end()
  }
}
