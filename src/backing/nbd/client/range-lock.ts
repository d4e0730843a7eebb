/** Serializes read-modify-write cycles with other writes to the same blocks, first come, first served. */

interface Held {
  readonly start: number
  readonly end: number
  readonly isExclusive: boolean
  readonly released: Promise<void>
}

export class RangeLock {
  readonly #held = new Set<Held>()

  /**
   * Resolves when no earlier holder of the bytes from `start` to `end` conflicts. Two holders that are not exclusive never conflict.
   * Resolves to a function that releases the lock.
   */
  async take(start: number, end: number, options: { readonly isExclusive: boolean }): Promise<() => void> {
    const { isExclusive } = options
    const before = [...this.#held].filter((other) => (isExclusive || other.isExclusive) && other.start < end && start < other.end)
    let release = (): void => undefined
    const released = new Promise<void>((resolve) => {
      release = resolve
    })
    const own: Held = { start, end, isExclusive, released }
    this.#held.add(own)
    for (const other of before) await other.released
    return () => {
      this.#held.delete(own)
      release()
    }
  }
}
