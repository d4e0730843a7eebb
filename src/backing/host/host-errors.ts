/** Turns errors of the host's calls into `BackingError`s with the attempted action, the place and the reason. */
import { BackingError, type BackingErrorCode, printable } from "../backing.ts"

const CODE_BY_ERRNO: Readonly<Record<string, BackingErrorCode>> = {
  ENOENT: "not-found",
  ENOTDIR: "not-found",
  EEXIST: "exists",
  EACCES: "permission",
  EPERM: "permission",
  EROFS: "permission",
  ETXTBSY: "busy",
  EBUSY: "busy",
  ENOSPC: "no-space",
  EDQUOT: "no-space",
  EFBIG: "no-space",
  EISDIR: "invalid-format",
}

const REASON_BY_ERRNO: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  ENOTDIR: "a part of its path is not a directory",
  EACCES: "permission denied",
  EPERM: "operation not permitted",
  EROFS: "it is on a read-only file system",
  ENOSPC: "no space left on the file system",
  EDQUOT: "disk quota exceeded",
  EFBIG: "larger than the file system allows",
  EEXIST: "it exists already; choose another name or remove it first",
  EIO: "the host reports an input/output error",
  EISDIR: "it is a directory",
  ELOOP: "its symbolic links lead in a circle",
  ENAMETOOLONG: "its name is too long for the file system",
  EMFILE: "too many open files; close some, or raise the limit (ulimit -n)",
  ENFILE: "too many open files on this host",
}

/** The errno name that node:fs and node:child_process put on their errors, such as "ENOENT"; "" if there is none. */
export function errnoOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : ""
}

/** Whether the host has run out of descriptors, processes or memory, so that its error tells nothing about the file. */
export function isShortage(error: unknown): error is Error {
  return ["EMFILE", "ENFILE", "EAGAIN", "ENOMEM"].includes(errnoOf(error))
}

/** Turns an error of node:fs into a `BackingError`. `doing` follows "cannot": "read 512 bytes". */
export function hostError(error: unknown, doing: string, path: string, offset?: number): BackingError {
  const errno = errnoOf(error)
  // A file that is created need not exist, but its folder must.
  const known = errno === "ENOENT" && doing === "create" ? "its folder does not exist" : REASON_BY_ERRNO[errno]
  const reason = known ?? (error instanceof Error ? error.message : String(error))
  const where = offset === undefined ? "" : ` at byte ${offset}`
  // Node prints causes, and this one quotes the path, which may come from an image.
  const cause = error instanceof Error && printable(error.message) !== error.message ? undefined : error
  return new BackingError(CODE_BY_ERRNO[errno] ?? "io", `cannot ${doing}${where}: ${reason}`, { path, offset, cause })
}
