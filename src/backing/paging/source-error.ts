/** Turns the error of a foreign source into a `BackingError`, the only error that a backing may throw. */
import { reasonOf } from "../../options.ts"
import { BackingError } from "../backing.ts"

/** `error` itself if it is a `BackingError`; otherwise an `io` one with `error` as its cause. `doing` follows "cannot": "read". */
export function sourceError(error: unknown, doing: string, path: string, offset?: number): BackingError {
  if (error instanceof BackingError) return error
  const where = offset === undefined ? "" : ` at byte ${offset}`
  return new BackingError("io", `cannot ${doing}${where}: ${reasonOf(error)}`, { path, offset, cause: error })
}
