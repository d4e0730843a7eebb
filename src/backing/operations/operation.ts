/** What the operations on whole disks share: their options, progress, the signal that stops them, and turns of the thread. */
import type { Rules } from "../../options.ts"
import type { PlatformAbortSignal } from "../sources/http/types.ts"

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

/** How long an operation may hold the thread. */
const HOLD_MS = 4

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
  #since = performance.now()

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
    if (performance.now() - this.#since >= HOLD_MS) {
      await nextTurn()
      this.#since = performance.now()
    }
    this.throwIfStopped()
  }
}

interface TurnHost {
  readonly setImmediate?: (task: () => void) => unknown
  readonly MessageChannel?: new () => {
    readonly port1: { onmessage: unknown; close(): void }
    readonly port2: { postMessage(message: unknown): void }
  }
  readonly setTimeout: (task: () => void, ms: number) => unknown
}

/** Resolves after the host's event loop has had its turn: without the 4 ms that a page adds to `setTimeout`, where that can be. */
function nextTurn(): Promise<void> {
  const host = globalThis as unknown as TurnHost
  const { setImmediate, MessageChannel } = host
  return new Promise((resolve) => {
    if (setImmediate !== undefined) setImmediate(resolve)
    else if (MessageChannel !== undefined) {
      // A channel for each turn: an open port would keep a process alive.
      const { port1, port2 } = new MessageChannel()
      port1.onmessage = (): void => {
        port1.close()
        resolve()
      }
      port2.postMessage(undefined)
    } else host.setTimeout(resolve, 0)
  })
}
