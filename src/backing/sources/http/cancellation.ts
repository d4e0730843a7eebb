/** Cancellation: ends a request, and what waits for it. A `fetch` of the user's may ignore its signal, and must hold nobody for that. */

export class Cancellation {
  readonly #controller = new AbortController()
  #interrupt: () => void = () => undefined

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** What `work` comes to, or a rejection when `cancel` was called before: then `late` gets what comes after all. One at a time. */
  wait<T>(work: Promise<T>, late: (result: T) => void = () => undefined): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#interrupt = () => reject(new Error("the request was ended"))
      Promise.resolve(work).then((result) => {
        if (this.signal.aborted) late(result)
        resolve(result)
      }).catch(reject)
      if (this.signal.aborted) this.#interrupt()
    })
  }

  cancel(): void {
    this.#controller.abort()
    this.#interrupt()
  }
}
