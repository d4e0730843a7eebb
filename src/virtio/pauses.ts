/** Pauses: while a device takes no requests, and promises that resolve when nothing of it is in flight. */
import type { Work } from "./work.ts"

/** The device that pauses. */
export interface PausingDevice {
  readonly work: Work
  /** Nothing is in flight. */
  readonly isIdle: boolean
  /** It may have become open, or closed, to requests. Open again, it serves what has come in. */
  pausesChanged(): void
}

export class Pauses {
  readonly #device: PausingDevice
  #isPaused = false
  /** How many wait for the device to be idle, or act meanwhile. */
  #holds = 0
  #resolvers: (() => void)[] = []
  /** What is to be done while the device is idle, and has not begun, in the order of the calls. */
  readonly #line: object[] = []

  /** `tell` is to be called when a turn of the device's work has ended. */
  constructor(device: PausingDevice) {
    this.#device = device
  }

  /** `pause` has been called, and `resume` has not since. */
  get isPaused(): boolean {
    return this.#isPaused
  }

  /** Requests may be taken. */
  get isOpen(): boolean {
    return !this.#isPaused && this.#holds === 0
  }

  /** Takes no more requests; resolves when none is in flight. Those that the driver makes available meanwhile wait for `resume`. */
  pause(): Promise<void> {
    this.#isPaused = true
    this.#device.pausesChanged()
    return this.whenIdle()
  }

  /** Ends `pause`, and serves what has come in. */
  resume(): void {
    this.#isPaused = false
    this.#device.pausesChanged()
  }

  /**
   * Resolves when nothing is in flight: at once, where the backing is synchronous and no request was too long for one turn. Requests
   * that only wait for bus mastering count as idle: nothing uses the backing. Saving state and closing the backing want that.
   */
  whenIdle(): Promise<void> {
    const { isIdle, work } = this.#device
    if (isIdle) return Promise.resolve()
    work.awaitEnd()
    return new Promise((resolve) => this.#resolvers.push(resolve))
  }

  /**
   * Lets requests in flight end while it takes no more, then calls `act`, before it returns where nothing is in flight. Calls begin in
   * their order: the last one counts. What has come in meanwhile is served after `act`.
   */
  async whileIdle(act: () => void | PromiseLike<void>): Promise<void> {
    this.#holds++
    this.#line.push(act)
    this.#device.pausesChanged()
    try {
      // What waits for bus mastering counts as idle, and may go on between two promises.
      while (!this.#device.isIdle || this.#line[0] !== act) await this.whenIdle()
      this.#line.shift()
      const answer = act()
      if (answer !== undefined) await answer
    } finally {
      this.#holds--
      this.#device.pausesChanged()
    }
  }

  /** The device may be idle now: resolves the promises if it is. */
  tell(): void {
    if (this.#resolvers.length === 0) return
    if (!this.#device.isIdle) this.#device.work.awaitEnd()
    else for (const resolve of this.#resolvers.splice(0)) resolve()
  }
}
