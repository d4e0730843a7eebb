/** A connection to Chromium's debugging pipe: JSON messages that end with a NUL byte, on descriptors 3 (to it) and 4 (from it). */
import type { Readable, Writable } from "node:stream"

/** What a command answers, or an event says. */
export type Fields = Readonly<Record<string, unknown>>

interface Message {
  readonly id?: number
  readonly method?: string
  readonly params?: Fields
  readonly result?: Fields
  readonly error?: { readonly message: string }
  readonly sessionId?: string
}

interface Pending {
  readonly resolve: (result: Fields) => void
  readonly reject: (error: Error) => void
  readonly timer: NodeJS.Timeout
}

interface Listener {
  readonly session: string | undefined
  readonly method: string
  readonly listener: (params: Fields) => void
}

/** Milliseconds that a command may take, if it is not told otherwise. */
const COMMAND_LIMIT = 30_000

export class DevTools {
  readonly #to: Writable
  readonly #pending = new Map<number, Pending>()
  readonly #listeners: Listener[] = []
  #next = 1
  #partial = ""

  constructor(to: Writable, from: Readable) {
    this.#to = to
    from.setEncoding("utf8")
    from.on("data", (text: string) => this.#take(text))
    from.on("close", () => this.#fail("the browser has closed its debugging pipe"))
    to.on("error", (error) => this.#fail(error.message))
  }

  /** @throws Error when the browser refuses, ends, or does not answer in `limit` milliseconds */
  send(
    method: string,
    params: Fields = {},
    options: { readonly session?: string | undefined; readonly limit?: number } = {},
  ): Promise<Fields> {
    const id = this.#next++
    const limit = options.limit ?? COMMAND_LIMIT
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id)?.reject(new Error(`${method}: no answer after ${limit} ms`)), limit)
      this.#pending.set(id, { resolve, reject, timer })
      this.#to.write(`${JSON.stringify({ id, method, params, sessionId: options.session })}\0`)
    })
  }

  /** Calls `listener` with each event `method` of `session`; undefined stands for the browser itself. */
  on(method: string, session: string | undefined, listener: (params: Fields) => void): void {
    this.#listeners.push({ method, session, listener })
  }

  #take(text: string): void {
    const messages = (this.#partial + text).split("\0")
    this.#partial = messages.pop() ?? ""
    for (const message of messages) this.#dispatch(JSON.parse(message) as Message)
  }

  #dispatch(message: Message): void {
    if (message.id === undefined) {
      for (const { method, session, listener } of this.#listeners) {
        if (method === message.method && session === message.sessionId) listener(message.params ?? {})
      }
      return
    }
    const pending = this.#settle(message.id)
    if (message.error === undefined) pending?.resolve(message.result ?? {})
    else pending?.reject(new Error(message.error.message))
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id)
    this.#pending.delete(id)
    if (pending !== undefined) clearTimeout(pending.timer)
    return pending
  }

  #fail(reason: string): void {
    for (const id of [...this.#pending.keys()]) this.#settle(id)?.reject(new Error(reason))
  }
}
