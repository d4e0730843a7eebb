/**
 * Watch: looks at a device now and then while requests are in flight. A device that was unplugged, or reset by somebody else, tells
 * nobody; an interrupt may be lost. A guest kernel has its hot-plug events and time limits for that.
 */

export interface WatchOptions {
  /** Milliseconds between two looks. */
  readonly interval: number
  /** Looks. Returns whether there is reason to look again. */
  look(): boolean
}

/** Runs a timer only while there is something to watch. */
export class Watch {
  readonly #options: WatchOptions
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(options: WatchOptions) {
    this.#options = options
  }

  /** Does nothing when it runs already. */
  start(): void {
    this.#timer ??= setTimeout(() => this.#tick(), this.#options.interval)
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #tick(): void {
    this.#timer = undefined
    if (this.#options.look()) this.start()
  }
}
