/** Cancellation: ends a request, and whoever waits for it. A `fetch` of the user's may ignore its signal, and must hold nobody for that. */
import type { HttpBodyReader, HttpResponse } from "./types.ts"

export class Cancellation {
  readonly #controller = new AbortController()
  #interrupt: (reason: Error) => void = () => undefined
  /** What has come of the answer, once it has. */
  response: HttpResponse | undefined
  /** Once the reading of the body has begun. */
  reader: HttpBodyReader | undefined
  isCancelled = false

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** What `work` comes to, or a rejection when `cancel` is called before. To be called once. */
  wait<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#interrupt = reject
      work.then(resolve, reject)
    })
  }

  /** Ends the request, and the reading of its body: that may be long. A fetch of the user's may ignore the signal, and heed the other. */
  cancel(): void {
    if (this.isCancelled) return
    this.isCancelled = true
    this.#controller.abort()
    this.#interrupt(new Error("the request was ended"))
    this.discard()
  }

  /** Ends the reading of what has come. */
  discard(): void {
    const { reader, response } = this
    quietly(() => (reader ?? response?.body?.getReader())?.cancel())
  }
}

/** Calls `work` later. What becomes of it is nobody's concern: the request has ended already. */
function quietly(work: () => unknown): void {
  void Promise.resolve().then(work).catch(() => undefined)
}
