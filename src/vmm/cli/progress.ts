/** A progress bar on standard error, where that is a terminal; nothing anywhere else. */
import { formatBytes } from "./format.ts"

const WIDTH = 40
const INTERVAL_MS = 100

export class Progress {
  readonly #total: number
  readonly #enabled = process.stderr.isTTY === true
  #shownAt = 0

  /** `total`: bytes. */
  constructor(total: number) {
    this.#total = total
  }

  /** `done`: bytes so far. */
  show(done: number): void {
    if (!this.#enabled || this.#total === 0) return
    const now = Date.now()
    if (now - this.#shownAt < INTERVAL_MS && done < this.#total) return
    this.#shownAt = now
    const filled = Math.floor((done / this.#total) * WIDTH)
    process.stderr.write(`\r[${"#".repeat(filled)}${".".repeat(WIDTH - filled)}] ${formatBytes(done)} of ${formatBytes(this.#total)}  `)
  }

  clear(): void {
    if (this.#enabled && this.#shownAt > 0) process.stderr.write("\r\x1b[K")
  }
}
