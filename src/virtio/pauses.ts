/** Pauses: stops a device from taking requests, and resolves promises when none is in flight. */
import type { Work } from "./work.ts"

/** The device that pauses. */
export interface PausingDevice {
  readonly work: Work
  /** Nothing is in flight. */
  readonly isIdle: boolean
  /** See `Pauses.setBusMaster`. */
  setBusMaster(enabled: boolean): void
  /** `Pauses.isOpen` may have changed. When it opens, the device serves the requests that have come in. */
  pausesChanged(): void
}

export class Pauses {
  readonly #device: PausingDevice
  #isPaused = false
  /** Callers of `whileIdle` that wait or act. */
  #holds = 0
  /** Actions of `whileIdle` that go on. */
  #acting = 0
  #isBusMaster = true
  #resolvers: (() => void)[] = []
  /** The actions of `whileIdle` that have not begun, in order of the calls. */
  readonly #line: object[] = []

  /** The device calls `tell` at the end of each turn of its work. */
  constructor(device: PausingDevice) {
    this.#device = device
  }

  /** Whether `pause` has been called, and not `resume` since. */
  get isPaused(): boolean {
    return this.#isPaused
  }

  /** Whether an action of `whileIdle` waits or goes on: no call of the backing may begin, except those of requests in flight. */
  get isHeld(): boolean {
    return this.#holds > 0
  }

  /** Whether requests may be taken. */
  get isOpen(): boolean {
    return !this.#isPaused && this.#holds === 0
  }

  /**
   * Bus mastering is on or off. Requests that only waited for it count as idle, so it opens the work again only after a pause, or after an
   * action that goes on: they would call a backing that is being replaced or closed. Returns whether `Work.open` has changed.
   */
  setBusMaster(enabled: boolean): boolean {
    this.#isBusMaster = enabled
    const { work } = this.#device
    const open = enabled && (work.open || (this.#acting === 0 && !this.#isPaused))
    if (open === work.open) return false
    work.open = open
    return true
  }

  /** Takes no more requests; resolves when none is in flight. Requests that the driver makes available meanwhile wait for `resume`. */
  pause(): Promise<void> {
    this.#isPaused = true
    this.#device.pausesChanged()
    return this.whenIdle()
  }

  /** Ends `pause`, and serves the requests that have come in. */
  resume(): void {
    this.#isPaused = false
    this.#device.setBusMaster(this.#isBusMaster)
    this.#device.pausesChanged()
  }

  /**
   * Resolves when no request is in flight: at once, if the backing is synchronous and no request was too long for one turn. Requests that
   * only wait for bus mastering count as idle, because they do not use the backing. Then it is safe to save the state or close the backing.
   */
  whenIdle(): Promise<void> {
    const { isIdle, work } = this.#device
    if (isIdle) return Promise.resolve()
    work.awaitEnd()
    return new Promise((resolve) => this.#resolvers.push(resolve))
  }

  /**
   * Takes no more requests, waits until none is in flight, calls `act`, and serves the requests that have come in. If none is in flight,
   * `act` is called before this returns. Actions begin in the order of the calls, so the last one takes effect last.
   */
  async whileIdle(act: () => void | PromiseLike<void>): Promise<void> {
    this.#holds++
    this.#line.push(act)
    this.#device.pausesChanged()
    try {
      // Requests that wait for bus mastering count as idle, and may continue between two promises.
      while (!this.#device.isIdle || this.#line[0] !== act) await this.whenIdle()
      this.#line.shift()
      this.#acting++
      try {
        const answer = act()
        if (answer !== undefined) await answer
      } finally {
        this.#acting--
        this.#device.setBusMaster(this.#isBusMaster)
      }
    } finally {
      this.#holds--
      this.#device.pausesChanged()
    }
  }

  /** Resolves the promises if the device is idle. */
  tell(): void {
    if (this.#resolvers.length === 0) return
    if (!this.#device.isIdle) this.#device.work.awaitEnd()
    else for (const resolve of this.#resolvers.splice(0)) resolve()
  }
}
