/** What the operations on whole disks share: their options, progress, the signal that stops them, and turns of the thread. */
import type { Rules } from "../../options.ts"
import type { PlatformAbortSignal } from "../sources/http/types.ts"
import { Turns } from "../../turns.ts"

/** Options that each operation on whole disks has. */
export interface OperationOptions {
  /** Called after each step with the bytes that are done, and the bytes in all. */
  readonly progress?: (done: number, total: number) => void
  /** Stops the operation between two steps: it rejects with the signal's reason. What it has read from stays as it was. */
  readonly signal?: PlatformAbortSignal
}

export const OPERATION_RULES: Rules<OperationOptions> = { progress: "function?", signal: "any?" }

/** Bytes that one step reads or writes at most. */
export const STEP_BYTES = 1 << 21

/** The part of `AbortSignal` that is used. */
interface Signal {
  readonly aborted: boolean
  readonly reason?: unknown
}

/** One operation under way. */
export class Operation {
  readonly #progress: OperationOptions["progress"]
  readonly #signal: Signal | undefined
  #total: number
  #done = 0
  readonly #turns = new Turns()

  /** `total`: bytes. @throws the signal's reason when it is stopped already */
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

  /** There are `bytes` more to do than was thought, or less. */
  extend(bytes: number): void {
    this.#total += bytes
  }

  /** @throws the signal's reason when it says stop */
  throwIfStopped(): void {
    if (this.#signal?.aborted === true) throw this.#signal.reason ?? new Error("the operation was stopped")
  }

  /** To be awaited before each step: gives up the thread when it has been held for long. @throws as `throwIfStopped` */
  async turn(): Promise<void> {
    await this.#turns.turn()
    this.throwIfStopped()
  }
}
