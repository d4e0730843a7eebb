/** The common parts of operations on whole disks: options, progress, the signal that stops them, and turns of the thread. */
import type { Rules } from "../../options.ts"
import type { PlatformAbortSignal } from "../sources/http/types.ts"
import { type StopSignal, throwIfStopped, Turns } from "../../turns.ts"

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

/** One operation in progress. */
export class Operation {
  readonly #progress: OperationOptions["progress"]
  readonly #signal: StopSignal | undefined
  #total: number
  #done = 0
  readonly #turns: Turns

  /** `total`: bytes. @throws the signal's reason if it is aborted already */
  constructor(total: number, { progress, signal }: OperationOptions) {
    this.#progress = progress
    // Without the platform's types a signal is just an object.
    this.#signal = signal as StopSignal | undefined
    this.#turns = new Turns(this.#signal)
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
    throwIfStopped(this.#signal)
  }

  /** Await it before each step: it yields the thread from time to time. @throws as `throwIfStopped` */
  async turn(): Promise<void> {
    await this.#turns.turn()
  }
}
