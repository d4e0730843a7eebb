/**
 * Checks what a backing's method returns: nothing, or a promise if the backing is asynchronous. JavaScript callers have no compiler for
 * that.
 */

/** Whether `answer` has to be awaited. */
export function isThenable<T>(answer: T | PromiseLike<T>): answer is PromiseLike<T> {
  return answer !== undefined && answer !== null && typeof (answer as { then?: unknown }).then === "function"
}

/** Handles the rejection of a promise that nobody awaits any more, so that it does not end the process. */
export function ignoreRejection(answer: PromiseLike<unknown>): void {
  answer.then(undefined, () => {})
}

/** @throws TypeError if `answer`, returned by the backing's `method`, is a promise, though the backing is not `asynchronous` */
export function refusePromise(answer: unknown, method: string): void {
  if (!isThenable(answer)) return
  ignoreRejection(answer)
  throw new TypeError(
    `the backing's ${method} returned a promise: a backing that answers later must have the property asynchronous: true`,
  )
}

/** The error for an answer that is not a boolean: taken for true, it would report a write as done that is not. */
export function notNow(method: string, answer: unknown): TypeError {
  const isPromise = isThenable(answer)
  if (isPromise) ignoreRejection(answer)
  return new TypeError(`the backing's ${method} returned ${isPromise ? "a promise" : String(answer)}: it must answer true or false at once`)
}
