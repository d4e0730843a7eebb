/** Decides whether a failed network request is worth another try, and how long to wait before it: exponential back-off with jitter. */
import { BackingError, type BackingErrorDetails } from "../../backing.ts"

/** Timers and chance, which tests replace. Times are milliseconds. */
export interface Clock {
  /** Milliseconds since 1970. Never decreases, even if the computer's clock is set back. */
  now(): number
  /** A number from 0 to below 1. */
  random(): number
  /** Calls `act` once after `delay`. Returns a function that cancels this. */
  after(delay: number, act: () => void): () => void
}

export const PLATFORM_CLOCK: Clock = {
  now: () => performance.timeOrigin + performance.now(),
  random: () => Math.random(),
  after: (delay, act) => {
    const timer = setTimeout(act, delay)
    return () => clearTimeout(timer)
  },
}

/** A failure that may be temporary. */
export class TransientError extends BackingError {
  /** The message without the path. */
  readonly reason: string
  /** Milliseconds that the server asked us to wait; undefined if it did not ask. */
  readonly wait: number | undefined

  constructor(reason: string, details: BackingErrorDetails & { readonly wait?: number | undefined } = {}) {
    super("io", reason, details)
    this.reason = reason
    this.wait = details.wait
  }
}

const FIRST_DELAY = 250
const LONGEST_DELAY = 10_000
/** The server may ask for a longer wait than ours, up to this. */
const LONGEST_WAIT = 60_000

/**
 * Milliseconds to wait after the `failures`-th failure in a row (from 1). Half of the delay is fixed and half is random, so that clients
 * that failed together do not come back together.
 */
export function retryDelay(failures: number, wait: number | undefined, clock: Clock): number {
  const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1))
  return Math.max(Math.min(wait ?? 0, LONGEST_WAIT), delay * (0.5 + clock.random() / 2))
}

/** Milliseconds that a Retry-After header asks for: a number of seconds or a date. Undefined for anything else. [RFC 9110] 10.2.3 */
export function parseRetryAfter(text: string | null, clock: Clock): number | undefined {
  if (text === null) return undefined
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000
  const date = Date.parse(text)
  return Number.isNaN(date) ? undefined : Math.max(0, date - clock.now())
}
