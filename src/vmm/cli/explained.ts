/**
 * Tells errors that a person can correct from bugs. This file imports nothing, and is loaded with the program: when the process has no file
 * descriptor left, nothing more can be loaded, and that is what is to be said then.
 */

/** Names of errors whose messages are meant for a person. */
const FOR_PEOPLE: readonly string[] = ["BackingError", "BlockRequestError", "DriverError", "RangeError"]

/** Whether the error's message is meant for a person, so that no stack is printed. */
export function isForPeople(error: unknown): error is Error {
  // Errors of the host from Node's calls have a syscall: no room for a temporary file, no such folder.
  return error instanceof Error && (FOR_PEOPLE.includes(error.name) || "syscall" in error)
}
