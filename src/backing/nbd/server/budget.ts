/**
 * Budget: the memory for all clients of a server. A client that asks for too much waits, and one that does not release its memory while
 * others wait is disconnected.
 */

/** A client, as the budget knows it. */
export interface Holder {
  /** Its turn has come: it asks again before it returns, unless it needs nothing any more. */
  wake(): void
  /** It has kept others waiting: its connection ends. */
  evict(): void
}

/** A holder's bytes: now, at the start of the round, and released since. */
interface Account {
  bytes: number
  atStart: number
  given: number
}

/** The share of its memory that a holder must release in each round, so that releasing a byte now and then is not enough. */
const LEAST_PART = 1 / 4

export interface BudgetOptions {
  /** Maximum of bytes of all holders together. */
  readonly total: number
  /** Maximum of bytes of one holder. */
  readonly each: number
  /** Milliseconds of a round. While a holder waits, those that have released too little in a round are evicted. */
  readonly patience: number
}

export class Budget {
  readonly #options: BudgetOptions
  readonly #accounts = new Map<Holder, Account>()
  /** Waiting holders, in order. */
  #line = new Set<Holder>()
  /** The holder that is being woken, and whether it was refused meanwhile. */
  #woken: Holder | undefined
  #isRefused = false
  #held = 0
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(options: BudgetOptions) {
    this.#options = options
  }

  /** Bytes that are held. */
  get held(): number {
    return this.#held
  }

  /** Number of waiting holders. */
  get waiting(): number {
    return this.#line.size
  }

  /**
   * Whether `holder` gets `bytes`. If not, it asks again after releasing memory itself, or when it is woken. A request of at most `each` is
   * granted eventually.
   */
  take(holder: Holder, bytes: number): boolean {
    const account = this.#accounts.get(holder)
    if ((account?.bytes ?? 0) + bytes > this.#options.each) return false
    const isNext = holder === this.#woken || (this.#woken === undefined && this.#line.size === 0)
    if (!isNext || this.#held + bytes > this.#options.total) {
      if (holder === this.#woken) this.#isRefused = true
      else this.#line.add(holder)
      this.#timer ??= this.#startRound()
      return false
    }
    this.#held += bytes
    if (account === undefined) this.#accounts.set(holder, { bytes, atStart: 0, given: 0 })
    else account.bytes += bytes
    return true
  }

  give(holder: Holder, bytes: number): void {
    // A request of no bytes has taken nothing: there may be no account.
    if (bytes === 0) return
    const account = this.#accounts.get(holder)
    if (account === undefined || account.bytes < bytes) throw new Error(`${bytes} bytes were given back that were not taken`)
    this.#held -= bytes
    account.bytes -= bytes
    account.given += bytes
    if (account.bytes === 0) this.#accounts.delete(holder)
    this.#serveLine()
  }

  /** `holder` is gone and asks no more. It still releases its memory. */
  leave(holder: Holder): void {
    this.#line.delete(holder)
    this.#serveLine()
    this.#stopIfIdle()
  }

  /** Wakes waiting holders in order, until one is refused, which stays first. */
  #serveLine(): void {
    if (this.#woken !== undefined || this.#line.size === 0) return
    for (let held = this.#held; ; held = this.#held) {
      const [first] = this.#line
      if (first === undefined) break
      this.#line.delete(first)
      this.#woken = first
      this.#isRefused = false
      try {
        first.wake()
      } finally {
        this.#woken = undefined
        if (this.#isRefused) this.#line = new Set([first, ...this.#line])
      }
      // It may have been refused before something was given back within the call.
      if (this.#isRefused && this.#held >= held) break
    }
    this.#stopIfIdle()
  }

  #startRound(): ReturnType<typeof setTimeout> {
    for (const account of this.#accounts.values()) {
      account.atStart = account.bytes
      account.given = 0
    }
    const timer = setTimeout(() => {
      const slow = [...this.#accounts].filter(([, { atStart, given }]) => given < atStart * LEAST_PART).map(([holder]) => holder)
      this.#timer = this.#startRound()
      for (const holder of slow) holder.evict()
      this.#stopIfIdle()
    }, this.#options.patience)
    timer.unref()
    return timer
  }

  #stopIfIdle(): void {
    if (this.#line.size > 0) return
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
