/** How many commands are not settled, and the wait for the last of them when a disk is closed. */
import { NBD_CMD } from "../protocol.ts"
import type { Command } from "./command.ts"
import type { Timer } from "./timer.ts"

/** Milliseconds after which, and again and again, a disk that is being closed looks at what it still waits for. */
const LOOK_AGAIN = 10_000

export class Unsettled {
  readonly #timer: Timer
  #count = 0
  /** Those among them that a server may leave unanswered without anything being lost. */
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

  /** Resolves when there is none. Calls `abandon`, which settles all, when a while has passed and only reads are left. */
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
