/** Turns: gives up the thread now and then in work that takes long. */

/** How long such work may hold the thread. */
const HOLD_MS = 4

interface TurnHost {
  readonly setImmediate?: (task: () => void) => unknown
  readonly MessageChannel?: new () => {
    readonly port1: { onmessage: unknown; close(): void }
    readonly port2: { postMessage(message: unknown): void }
  }
  readonly setTimeout: (task: () => void, ms: number) => unknown
}

export class Turns {
  #since = performance.now()

  /** To be awaited before each step: gives up the thread when it has been held for long. */
  async turn(): Promise<void> {
    if (performance.now() - this.#since < HOLD_MS) return
    await nextTurn()
    this.#since = performance.now()
  }
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
