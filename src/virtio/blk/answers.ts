/**
 * What a backing's method may return: nothing, or a promise where it may answer later. JavaScript callers have no compiler: it is checked.
 */

/** Whether `answer` is to be waited for. */
export function isThenable<T>(answer: T | PromiseLike<T>): answer is PromiseLike<T> {
  return answer !== undefined && answer !== null && typeof (answer as { then?: unknown }).then === "function"
}

/** A promise that nobody waits for any more must not end the process. */
export function ignoreRejection(answer: PromiseLike<unknown>): void {
  answer.then(undefined, () => {})
}

/** @throws TypeError when `answer`, of the backing's `method`, is a promise, though the backing is not `asynchronous` */
export function refusePromise(answer: unknown, method: string): void {
  if (!isThenable(answer)) return
  ignoreRejection(answer)
  throw new TypeError(
    `the backing's ${method} returned a promise: a backing that answers later must have the property asynchronous: true`,
  )
}

/** Anything but a yes or a no would pass a write for done that is not. */
export function notNow(method: string, answer: unknown): TypeError {
  const isPromise = isThenable(answer)
  if (isPromise) ignoreRejection(answer)
  return new TypeError(`the backing's ${method} returned ${isPromise ? "a promise" : String(answer)}: it must answer true or false at once`)
}
