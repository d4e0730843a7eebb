/** Cancellation ends a request, and also the waits for it, because a user's `fetch` may ignore the signal. */
import type { HttpBodyReader, HttpResponse } from "./types.ts"

export class Cancellation {
  readonly #controller = new AbortController()
  #interrupt: (reason: Error) => void = () => undefined
  /** The answer, once its head has arrived. */
  response: HttpResponse | undefined
  /** Set once reading of the body has begun. */
  reader: HttpBodyReader | undefined
  isCancelled = false

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** The outcome of `work`, or a rejection if `cancel` is called before. May be called once. */
  wait<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#interrupt = reject
      work.then(resolve, reject)
    })
  }

  /** Ends the request, and the reading of its body, which may be long. A user's `fetch` may ignore the signal, but end with the body. */
  cancel(): void {
    if (this.isCancelled) return
    this.isCancelled = true
    this.#controller.abort()
    this.#interrupt(new Error("the request was ended"))
    this.discard()
  }

  /** Ends the reading of the answer. */
  discard(): void {
    const { reader, response } = this
    quietly(() => (reader ?? response?.body?.getReader())?.cancel())
  }
}

/** Calls `work` later, and ignores its outcome, because the request has ended already. */
function quietly(work: () => unknown): void {
  void Promise.resolve().then(work).catch(() => undefined)
}
