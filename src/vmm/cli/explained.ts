/** Which errors a person can do something about. */
import { BackingError } from "../../backing/backing.ts"
import { BlockRequestError, DriverError } from "../driver/errors.ts"

/** Whether the error's message is for a person, and its stack is not. */
export function isForPeople(error: unknown): error is Error {
  if ([BackingError, BlockRequestError, DriverError, RangeError].some((kind) => error instanceof kind)) return true
  // What the host answered to a call of Node's: no room for a temporary file, no such folder.
  return error instanceof Error && "syscall" in error
}
