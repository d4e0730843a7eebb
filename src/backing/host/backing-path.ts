/** Paths of backing files on this host. */
import { existsSync, realpathSync } from "node:fs"
import { dirname, isAbsolute, relative, resolve, sep } from "node:path"
import { backingFileName, outsideOfFolder } from "../backing-name.ts"
import type { BackingReference } from "../qcow2/open.ts"
import { hostError } from "./host-errors.ts"

/** The path of the external data file that a new image at `imagePath` is to name, absolute. */
export function newDataFilePath(imagePath: string, name: string): string {
  return resolve(dirname(imagePath), name)
}

/**
 * The path of the file that an image names, absolute.
 * @throws BackingError `unsupported` when it names no file, or an external data file that is not in the image's folder (QC-DF-08)
 */
export function backingPath(reference: BackingReference): string {
  const { path, toImage } = backingFileName(reference)
  const folder = toImage ? dirname(reference.imagePath) : "."
  const found = resolve(folder, path)
  if (reference.isDataFile === true && existsSync(found) && isOutside(found, folder)) throw outsideOfFolder(reference)
  return found
}

/** Whether links lead from `path` out of `folder`: an archive may hold both an image and a link. */
function isOutside(path: string, folder: string): boolean {
  let way: string
  try {
    way = relative(realpathSync(folder), realpathSync(path))
  } catch (error) {
    throw hostError(error, "find out where it is", path)
  }
  return way === ".." || way.startsWith(`..${sep}`) || isAbsolute(way)
}
