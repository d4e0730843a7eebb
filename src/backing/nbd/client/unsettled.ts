/** Counts unsettled commands, and waits for the last of them when a disk is closed. */
import { NBD_CMD } from "../protocol.ts"
import type { Command } from "./command.ts"
import type { Timer } from "./timer.ts"

/** Interval in milliseconds at which a disk that is being closed checks what it still waits for. */
const LOOK_AGAIN = 10_000

export class Unsettled {
  readonly #timer: Timer
  #count = 0
  /** Those that may stay unanswered without losing data: reads. */
  #reads = 0
  #whenNone: () => void = () => undefined

  constructor(timer: Timer) {
    this.#timer = timer
  }

  get isNone(): boolean {
    return this.#count === 0
  }

  add(command: Command): void {
    this.#count++
    if (isRead(command)) this.#reads++
  }

  remove(command: Command): void {
    this.#count--
    if (isRead(command)) this.#reads--
    if (this.#count === 0) this.#whenNone()
  }

  /** Resolves when there is none. If only reads are left after a while, calls `abandon`, which settles them. */
  none(abandon: () => void): Promise<void> {
    if (this.#count === 0) return Promise.resolve()
    return new Promise((resolve) => {
      const again = (): (() => void) => this.#timer.after(LOOK_AGAIN, () => {
        cancel = again()
        if (this.#count === this.#reads) abandon()
      })
      let cancel = again()
      this.#whenNone = () => {
        cancel()
        resolve()
      }
    })
  }
}

function isRead({ type }: Command): boolean {
  return type === NBD_CMD.READ || type === NBD_CMD.BLOCK_STATUS
}
