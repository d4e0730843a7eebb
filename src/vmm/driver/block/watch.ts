/**
 * Watch: checks a device from time to time while requests are in flight. Nothing announces that a device was unplugged, or reset by
 * somebody else, or that an interrupt was lost. A guest kernel has hot-plug events and request timeouts for that.
 */

export interface WatchOptions {
  /** Milliseconds. */
  readonly interval: number
  /** Checks the device. Returns whether to check again. */
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
