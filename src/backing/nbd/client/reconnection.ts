/** Decides when to retry a lost connection (the pauses double), and when to give up. */
import { BackingError } from "../../backing.ts"
import { NbdProtocolError } from "../protocol.ts"
import type { Connected, EndSignal } from "./connect.ts"
import type { Timer } from "./timer.ts"

/** Milliseconds before the second try; the first is made at once. */
const FIRST_PAUSE = 100
const LONGEST_PAUSE = 5000

/** `isFinal`: a retry is useless. */
export type Result = Connected | { readonly failure: BackingError; readonly isFinal: boolean }

export class Reconnection {
  readonly #timer: Timer
  readonly #timeout: number
  readonly #signal: EndSignal
  /** Tries since `#since`, when the server answered a request, or somebody began to wait. */
  #tries = 0
  #since = 0

  /** @param timeout milliseconds after which a run ends without a connection */
  constructor(timer: Timer, timeout: number, signal: EndSignal) {
    this.#timer = timer
    this.#timeout = timeout
    this.#signal = signal
  }

  /** The server has answered a request, or nobody was waiting: counts tries and time from now on. */
  startAnew(): void {
    if (this.#tries === 0) return
    this.#tries = 0
    this.#since = this.#timer.now()
  }

  /**
   * Calls `connect` until it succeeds, or the timeout is reached.
   * @param loss why there is no connection
   */
  async run(loss: BackingError, connect: () => Promise<Connected>): Promise<Result> {
    if (this.#tries === 0) this.#since = this.#timer.now()
    for (let failure = loss; ;) {
      // A server that accepts connections and drops them makes no progress either.
      if (this.#tries > 0 && (this.#signal.aborted || this.#timer.now() - this.#since >= this.#timeout)) {
        this.#tries = 0
        return { failure, isFinal: false }
      }
      if (this.#tries > 0) await this.#pause(Math.min(FIRST_PAUSE * 2 ** (this.#tries - 1), LONGEST_PAUSE))
      this.#tries++
      try {
        return await connect()
      } catch (error) {
        if (!(error instanceof BackingError)) throw error
        if (error.cause instanceof NbdProtocolError) return { failure: error, isFinal: true }
        failure = error
      }
    }
  }

  #pause(delay: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel()
        this.#signal.removeEventListener("abort", done)
        resolve()
      }
      const cancel = this.#timer.after(delay, done)
      this.#signal.addEventListener("abort", done)
    })
  }
}
