/**
 * Giving up the host's thread: `later` runs a task in the next turn of the event loop, `Turns` divides long work into turns. And giving up
 * the work itself, when an `AbortSignal` says so.
 */

/** The globals that `later` uses: Node has the first, pages and workers have the second. */
export interface LaterHost {
  readonly setImmediate?: (task: () => void) => unknown
  readonly MessageChannel?: new () => {
    readonly port1: { onmessage: unknown; close(): void }
    readonly port2: { postMessage(message: unknown): void }
  }
  readonly setTimeout: (task: () => void, ms: number) => unknown
}

/** The type of Node's MessagePort does not list `onmessage`. */
const HOST = globalThis as unknown as LaterHost

/**
 * Runs `task` once, after I/O events and timers that are due, without the 4 ms delay of `setTimeout` in a page. Reads the globals at each
 * call, so that a test may replace them.
 */
export function later(task: () => void, host: LaterHost = HOST): void {
  if (host.setImmediate !== undefined) host.setImmediate(task)
  else if (host.MessageChannel !== undefined) postTask(task, host.MessageChannel)
  else host.setTimeout(task, 0)
}

/** A channel for each task: an open port would keep a process alive. */
function postTask(task: () => void, Channel: NonNullable<LaterHost["MessageChannel"]>): void {
  const { port1, port2 } = new Channel()
  port1.onmessage = (): void => {
    port1.close()
    task()
  }
  port2.postMessage(undefined)
}

/** How long work may hold the thread. */
const HOLD_MS = 4

/** The part of `AbortSignal` that is used. */
export interface StopSignal {
  readonly aborted: boolean
  readonly reason?: unknown
  addEventListener(type: "abort", listener: () => void): void
  removeEventListener(type: "abort", listener: () => void): void
}

/** @throws the signal's reason if it is aborted */
export function throwIfStopped(signal: StopSignal | undefined): void {
  if (signal?.aborted === true) throw reasonOf(signal)
}

/** Settles as `work` does, but rejects with the signal's reason as soon as it is aborted. Nobody hears then how `work` ends. */
export async function unlessStopped<T>(work: Promise<T>, signal: StopSignal | undefined): Promise<T> {
  if (signal === undefined) return await work
  return await new Promise<T>((resolve, reject) => {
    const stop = (): void => reject(reasonOf(signal))
    signal.addEventListener("abort", stop)
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop))
    if (signal.aborted) stop()
  })
}

function reasonOf({ reason }: StopSignal): unknown {
  return reason ?? new Error("the operation was stopped")
}

export class Turns {
  readonly #signal: StopSignal | undefined
  #since = performance.now()

  /** `signal` stops the work. */
  constructor(signal?: StopSignal) {
    this.#signal = signal
  }

  /** Await this before each step: it gives up the thread if that has been held for long. @throws the signal's reason if it is aborted */
  async turn(): Promise<void> {
    if (performance.now() - this.#since >= HOLD_MS) {
      await new Promise<void>((resolve) => later(resolve))
      this.#since = performance.now()
    }
    throwIfStopped(this.#signal)
  }
}
