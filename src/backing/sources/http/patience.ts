/**
 * Patience: how long a request is waited for. It ends when nothing has come for a while, and at a deadline: else a server that sends a
 * byte now and then would hold a read for as long as it likes.
 */
import { type Clock, TransientError } from "./retry.ts"

export interface PatienceOptions {
  /** Milliseconds without a byte after which a request counts as lost. */
  readonly timeout: number
  readonly clock: Clock
}

/** Bytes a second that a server must send, on the average of one try: a modem of 1998 has half of it, and comes through by trying again. */
const LEAST_RATE = 16_384

/** What ends a try at its deadline. */
export function tooSlow(): TransientError {
  return new TransientError(TOO_SLOW)
}

const TOO_SLOW = `the server sends less than ${LEAST_RATE / 1024} KiB a second`

/** When, by the clock, a try that begins now and asks for `length` bytes must have come to an end. */
export function deadlineOf(length: number, { timeout, clock }: PatienceOptions): number {
  return clock.now() + timeout + (length / LEAST_RATE) * 1000
}

export class Patience {
  /** Why it has ended; undefined while it has not. */
  reason: string | undefined
  readonly #options: PatienceOptions
  readonly #deadline: number
  readonly #end: () => void
  /** When something came last. Noted, and looked at by the one timer: a timer for each piece costs more than the piece. */
  #last: number
  #cancel: () => void
  #isPaused = false

  /** Calls `end` once, unless it is stopped before. */
  constructor(options: PatienceOptions, deadline: number, end: () => void) {
    this.#options = options
    this.#deadline = deadline
    this.#end = end
    this.#last = options.clock.now()
    this.#cancel = this.#wait()
  }

  /** Something has come. */
  restart(): void {
    this.#last = this.#options.clock.now()
    if (!this.#isPaused) return
    this.#isPaused = false
    this.#cancel = this.#wait()
  }

  /** It is not the server that is waited for, until `restart`. */
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
