/** Turns errors of the browser's file system into `BackingError`s that say what was tried, where, and why it failed. */
import { BackingError, type BackingErrorCode } from "../backing.ts"

/** Codes by the names of DOMExceptions and errors. [FS] */
const CODE_BY_NAME: Readonly<Record<string, BackingErrorCode>> = {
  NotFoundError: "not-found",
  NoModificationAllowedError: "busy",
  QuotaExceededError: "no-space",
  InvalidStateError: "closed",
  NotAllowedError: "permission",
  SecurityError: "permission",
  TypeMismatchError: "invalid-format",
  TypeError: "invalid-argument",
  unavailable: "unsupported",
}

const REASON_BY_NAME: Readonly<Record<string, string>> = {
  NotFoundError: "no such file; the option create makes one",
  NoModificationAllowedError: "another tab or worker has it open; close it there first",
  QuotaExceededError: "the origin's quota of storage is used up; free some, or ask for persistent storage",
  InvalidStateError: "the file is closed",
  TypeMismatchError: "it is a directory",
}

/** Turns the browser's error into a `BackingError`. `doing` follows "cannot": "read 512 bytes". */
export function opfsError(thrown: unknown, doing: string, path: string, offset?: number): BackingError {
  const { name, message } = thrown as { readonly name?: unknown; readonly message?: unknown }
  const reason = REASON_BY_NAME[String(name)] ?? String(message)
  const where = offset === undefined ? "" : ` at byte ${offset}`
  return new BackingError(CODE_BY_NAME[String(name)] ?? "io", `cannot ${doing}${where}: ${reason}`, { path, offset, cause: thrown })
}

/** A write that stored nothing and threw nothing. */
export function storedNothing(length: number, path: string, offset: number): BackingError {
  const message = `cannot write ${length} bytes at byte ${offset}: the browser stores no more of them, as when no space is left`
  return new BackingError("no-space", message, { path, offset })
}
