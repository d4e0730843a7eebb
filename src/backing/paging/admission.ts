/** Admission: bounds the memory that operations hold while they wait, in bytes. First come, first served. */

interface Waiter {
  readonly bytes: number
  readonly enter: () => void
}

export class Admission {
  readonly #most: number
  #held = 0
  readonly #queue: Waiter[] = []

  constructor(most: number) {
    this.#most = most
  }

  /**
   * Resolves when `bytes` more fit, or when nobody else holds any. Undefined if they fit now. Call `leave` with the same number afterwards.
   */
  enter(bytes: number): Promise<void> | undefined {
    if (this.#queue.length > 0 || !this.#fits(bytes)) return new Promise((resolve) => this.#queue.push({ bytes, enter: resolve }))
    this.#held += bytes
    return undefined
  }

  leave(bytes: number): void {
    this.#held -= bytes
    for (let next = this.#queue[0]; next !== undefined && this.#fits(next.bytes); next = this.#queue[0]) {
      this.#queue.shift()
      this.#held += next.bytes
      next.enter()
    }
  }

  #fits(bytes: number): boolean {
    return this.#held === 0 || this.#held + bytes <= this.#most
  }
}
