/** Makes a file under a temporary name, and gives it its own at the end: what had that name before is there until then. */
import { chmodSync, realpathSync, renameSync, statSync } from "node:fs"
import { BackingError, printable } from "../backing.ts"
import { hostError } from "./host-errors.ts"
import { removeHostFile } from "./host-file.ts"
import { LockedFile } from "./image-lock.ts"

/**
 * Lets `make` write a file of the name that it is given, in the folder of `path`, then renames it to `path`. A file that is there already
 * keeps its content until then, and is kept from others meanwhile. When `make` fails, nothing is left behind.
 * @throws BackingError `busy` when somebody has the file open that is to be replaced, and what `make` rejects with
 */
export async function writeReplacing(path: string, make: (temporary: string) => Promise<void>): Promise<void> {
  const old = openOld(path)
  const target = old === undefined ? path : realpathSync(path)
  const temporary = `${target}.${process.pid}-${Math.floor(Math.random() * 2 ** 32).toString(36)}.part`
  try {
    old?.claim()
    await make(temporary)
    replace(temporary, target, old === undefined ? undefined : statSync(target).mode)
  } catch (error) {
    removeIfThere(temporary)
    throw renamed(error, temporary, path)
  } finally {
    old?.close()
  }
}

/** An error of the temporary file, which nobody has heard of and which is gone, as one of the file that was asked for. */
function renamed(error: unknown, temporary: string, path: string): unknown {
  if (!(error instanceof BackingError) || error.path !== temporary) return error
  const { code, offset, mayBeDone, message } = error
  const problem = message.slice(printable(temporary).length + ": ".length)
  const details = { path, cause: error, mayBeDone, offset }
  return new BackingError(code, problem, details)
}

/** The file that is to be replaced, if there is one. @throws BackingError when it is no regular file, or cannot be written */
function openOld(path: string): LockedFile | undefined {
  try {
    return new LockedFile(path)
  } catch (error) {
    if (error instanceof BackingError && error.code === "not-found") return undefined
    throw error
  }
}

function replace(temporary: string, target: string, mode: number | undefined): void {
  try {
    if (mode !== undefined) chmodSync(temporary, mode & 0o777)
    renameSync(temporary, target)
  } catch (error) {
    throw hostError(error, "rename the finished file", target)
  }
}

function removeIfThere(path: string): void {
  try {
    removeHostFile(path)
  } catch (error) {
    // It was not made, or cannot be removed: what has failed before is what has to be told.
    if (!(error instanceof BackingError)) throw error
  }
}
