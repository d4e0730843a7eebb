/** Keeps reads that end in a write of the same blocks apart from other writes there, first come, first served. */

interface Held {
  readonly start: number
  readonly end: number
  readonly isExclusive: boolean
  readonly released: Promise<void>
}

export class RangeLock {
  readonly #held = new Set<Held>()

  /**
   * Resolves when no earlier holder of the bytes from `start` to `end` is in the way. Two that are not exclusive are never in each other's.
   * Call what it resolves to when the work is done.
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
