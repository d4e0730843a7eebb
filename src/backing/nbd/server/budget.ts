/**
 * Budget: the memory that all clients of a server together may make it hold. Whoever does not get what it asks for stands in line, and who
 * sits on what it holds while others wait is cut off.
 */

/** A client, as the budget knows it. */
export interface Holder {
  /** Its turn has come: it asks again before it returns, or does not want anything any more. */
  wake(): void
  /** It has kept others waiting: its connection ends. */
  evict(): void
}

/** What a holder has, what it had when the round began, and what it has given back since. Bytes. */
interface Account {
  bytes: number
  atStart: number
  given: number
}

/** In each round a holder has to give back this part of what it had: one that gives a byte now and then keeps others waiting as well. */
const LEAST_PART = 1 / 4

export interface BudgetOptions {
  /** Bytes that all holders together have at most. */
  readonly total: number
  /** Bytes that one holder has at most. */
  readonly each: number
  /** Milliseconds of a round: while somebody waits, holders who gave too little back within one are evicted. */
  readonly patience: number
}

export class Budget {
  readonly #options: BudgetOptions
  readonly #accounts = new Map<Holder, Account>()
  /** In the order in which they wait. */
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

  /** Holders that stand in line. */
  get waiting(): number {
    return this.#line.size
  }

  /**
   * Whether `holder` gets `bytes`. If not, it asks again when it has given something back itself, or when it is woken. Whoever asks for no
   * more than `each` gets it in the end.
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

  /** `holder` is gone and asks no more. What it has, it still gives back. */
  leave(holder: Holder): void {
    this.#line.delete(holder)
    this.#serveLine()
    this.#stopIfIdle()
  }

  /** Wakes those in line, in order, until one is refused: it stays the first. */
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
