/** Tells errors that a person can correct from bugs. */
import { BackingError } from "../../backing/backing.ts"
import { BlockRequestError, DriverError } from "../driver/errors.ts"

/** Whether the error's message is meant for a person, so that no stack is printed. */
export function isForPeople(error: unknown): error is Error {
  if ([BackingError, BlockRequestError, DriverError, RangeError].some((kind) => error instanceof kind)) return true
  // Errors of the host from Node's calls: no room for a temporary file, no such folder.
  return error instanceof Error && "syscall" in error
}
