/** Giving up the host's thread: `later` runs a task in the next turn of the event loop, `Turns` divides long work into turns. */

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

export class Turns {
  #since = performance.now()

  /** Await this before each step: it gives up the thread if that has been held for long. */
  async turn(): Promise<void> {
    if (performance.now() - this.#since < HOLD_MS) return
    await new Promise<void>((resolve) => later(resolve))
    this.#since = performance.now()
  }
}
