/** The common parts of operations on whole disks: options, progress, the signal that stops them, and turns of the thread. */
import type { Rules } from "../../options.ts"
import type { PlatformAbortSignal } from "../sources/http/types.ts"
import { Turns } from "../../turns.ts"

/** Options of every operation on whole disks. */
export interface OperationOptions {
  /** Called after each step with the bytes done, and the bytes in all. */
  readonly progress?: (done: number, total: number) => void
  /** Stops the operation between two steps: it rejects with the signal's reason. Its sources stay unchanged. */
  readonly signal?: PlatformAbortSignal
}

export const OPERATION_RULES: Rules<OperationOptions> = { progress: "function?", signal: "any?" }

/** Maximum of bytes that one step reads or writes. */
export const STEP_BYTES = 1 << 21

/** The part of `AbortSignal` that is used. */
interface Signal {
  readonly aborted: boolean
  readonly reason?: unknown
}

/** One operation in progress. */
export class Operation {
  readonly #progress: OperationOptions["progress"]
  readonly #signal: Signal | undefined
  #total: number
  #done = 0
  readonly #turns = new Turns()

  /** `total`: bytes. @throws the signal's reason if it is aborted already */
  constructor(total: number, { progress, signal }: OperationOptions) {
    this.#progress = progress
    // Without the platform's types a signal is just an object.
    this.#signal = signal as Signal | undefined
    this.#total = total
    this.throwIfStopped()
  }

  /** Counts `bytes` more as done. */
  advance(bytes: number): void {
    this.#done += bytes
    this.#progress?.(this.#done, this.#total)
  }

  /** Corrects the total by `bytes`, which may be negative. */
  extend(bytes: number): void {
    this.#total += bytes
  }

  /** @throws the signal's reason if it is aborted */
  throwIfStopped(): void {
    if (this.#signal?.aborted === true) throw this.#signal.reason ?? new Error("the operation was stopped")
  }

  /** Await it before each step: it yields the thread from time to time. @throws as `throwIfStopped` */
  async turn(): Promise<void> {
    await this.#turns.turn()
    this.throwIfStopped()
  }
}
