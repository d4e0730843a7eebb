/** The error for a command that the server refused. */
import { BackingError } from "../../backing.ts"
import { backingCodeOf } from "../errors.ts"
import { NBD_CMD, NBD_ERROR } from "../protocol.ts"
import type { Command } from "./command.ts"

/** The error for the server's answer `error`. `uri` is the server's, for messages. */
export function errorOf({ type, offset, length, error }: Command, uri: string): BackingError {
  const { code, reason } = backingCodeOf(error?.error ?? NBD_ERROR.EIO)
  const doing = Object.entries(NBD_CMD).find(([, number]) => number === type)?.[0] ?? "request"
  const what = type === NBD_CMD.FLUSH ? doing : `${doing} of ${length} bytes at byte ${offset}`
  const said = error === undefined || error.message === "" ? "" : ` (the server says: ${error.message.slice(0, 200)})`
  return new BackingError(code, `${what} failed: ${reason}${said}`, { path: uri, ...(type === NBD_CMD.FLUSH ? {} : { offset }) })
}
