/** IdleWaiters: promises that resolve when nothing of a device is in flight. */
import type { Work } from "./work.ts"

export class IdleWaiters {
  readonly #work: Work
  readonly #isIdle: () => boolean
  #resolvers: (() => void)[] = []

  /** `tell` is to be called when a turn of `work` has ended. */
  constructor(work: Work, isIdle: () => boolean) {
    this.#work = work
    this.#isIdle = isIdle
  }

  /** Resolves when the device is idle, at once where it is. */
  wait(): Promise<void> {
    if (this.#isIdle()) return Promise.resolve()
    this.#work.awaitEnd()
    return new Promise((resolve) => this.#resolvers.push(resolve))
  }

  /** The device may be idle now: resolves the promises if it is. */
  tell(): void {
    if (this.#resolvers.length === 0) return
    if (!this.#isIdle()) this.#work.awaitEnd()
    else for (const resolve of this.#resolvers.splice(0)) resolve()
  }
}
