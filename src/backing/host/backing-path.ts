/** Paths of backing files on this host. */
import { existsSync, realpathSync } from "node:fs"
import { dirname, isAbsolute, relative, resolve, sep } from "node:path"
import { backingFileName, outsideOfFolder } from "../backing-name.ts"
import type { BackingReference } from "../qcow2/open.ts"
import { hostError } from "./host-errors.ts"

/** The absolute path of the external data file for a new image at `imagePath`. */
export function newDataFilePath(imagePath: string, name: string): string {
  return resolve(dirname(imagePath), name)
}

/**
 * The absolute path of the file that an image names.
 * @throws BackingError `unsupported` if it does not name a file, or for an external data file outside the image's folder (QC-DF-08)
 */
export function backingPath(reference: BackingReference): string {
  const { path, toImage } = backingFileName(reference)
  const folder = toImage ? dirname(reference.imagePath) : "."
  const found = resolve(folder, path)
  if (reference.isDataFile === true && existsSync(found) && isOutside(found, folder)) throw outsideOfFolder(reference)
  return found
}

/** Whether links lead from `path` out of `folder`: a hostile archive may contain both an image and a link. */
function isOutside(path: string, folder: string): boolean {
  let way: string
  try {
    way = relative(realpathSync(folder), realpathSync(path))
  } catch (error) {
    throw hostError(error, "find out where it is", path)
  }
  return way === ".." || way.startsWith(`..${sep}`) || isAbsolute(way)
}
