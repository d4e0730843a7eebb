/** Makes a file under a temporary name, and renames it at the end, so that an old file of that name stays until then. */
import { chmodSync, readlinkSync, realpathSync, renameSync, statSync } from "node:fs"
import { basename, dirname, resolve } from "node:path"
import { BackingError, printable } from "../backing.ts"
import { errnoOf, hostError } from "./host-errors.ts"
import { removeHostFile } from "./host-file.ts"
import { LockedFile } from "./image-lock.ts"

/**
 * Lets `make` write a file of a temporary name in the folder of `path`, then renames it to `path`. An existing file keeps its content until
 * then, and is locked meanwhile. If `make` fails, nothing is left behind. A symbolic link stays: the file that it leads to is replaced, or
 * made if there is none.
 * @throws BackingError `busy` if somebody has the existing file open, and errors of `make`
 */
export async function writeReplacing(path: string, make: (temporary: string) => Promise<void>): Promise<void> {
  const old = openOld(path)
  const target = old === undefined ? placeOfNew(path) : realpathSync(path)
  const temporary = temporaryName(target)
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

/** Links in a row: as many as Linux follows. */
const MOST_LINKS = 40

/** Where a file that does not exist yet is to be made: where `path` leads to, if it is a symbolic link. */
function placeOfNew(path: string): string {
  let place = path
  // The file was missing, so links do not lead in a circle, unless somebody changes them meanwhile.
  for (let links = 0; links < MOST_LINKS; links++) {
    const link = linkAt(place)
    if (link === undefined) return place
    place = resolve(realpathSync(dirname(place)), link)
  }
  throw new BackingError("io", "cannot create: its symbolic links lead in a circle", { path })
}

function linkAt(path: string): string | undefined {
  try {
    return readlinkSync(path)
  } catch (error) {
    // It is no link, or there is nothing.
    if (errnoOf(error) === "EINVAL" || errnoOf(error) === "ENOENT") return undefined
    throw hostError(error, "open", path)
  }
}

/** Characters of the name that the temporary one begins with: most file systems allow 255 bytes, and a character takes up to four. */
const MOST_KEPT = 50

/** A name in the folder of `path` that nobody else has. */
function temporaryName(path: string): string {
  const name = basename(path)
  const folder = path.slice(0, path.lastIndexOf(name))
  return `${folder}${[...name].slice(0, MOST_KEPT).join("")}.${process.pid}-${Math.floor(Math.random() * 2 ** 32).toString(36)}.part`
}

/** Replaces the temporary name in an error by the name that the caller knows. */
function renamed(error: unknown, temporary: string, path: string): unknown {
  if (!(error instanceof BackingError) || error.path !== temporary) return error
  const { code, offset, mayBeDone, message } = error
  const problem = message.slice(printable(temporary).length + ": ".length)
  const details = { path, cause: error, mayBeDone, offset }
  return new BackingError(code, problem, details)
}

/** The file to replace, if there is one. @throws BackingError if it is not a regular file, or cannot be written */
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
    // It does not exist, or cannot be removed: the earlier error is reported.
    if (!(error instanceof BackingError)) throw error
  }
}
