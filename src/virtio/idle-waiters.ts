/** IdleWaiters: promises that resolve when nothing of a device is in flight. */

export class IdleWaiters {
  readonly #isIdle: () => boolean
  #resolvers: (() => void)[] = []

  constructor(isIdle: () => boolean) {
    this.#isIdle = isIdle
  }

  /** Somebody waits. */
  get hasAny(): boolean {
    return this.#resolvers.length > 0
  }

  /** Resolves when the device is idle, at once where it is. */
  wait(): Promise<void> {
    return this.#isIdle() ? Promise.resolve() : new Promise((resolve) => this.#resolvers.push(resolve))
  }

  /** Resolves the promises if the device is idle now: to be called when it may have become so. */
  tell(): void {
    if (this.hasAny && this.#isIdle()) for (const resolve of this.#resolvers.splice(0)) resolve()
  }
}
