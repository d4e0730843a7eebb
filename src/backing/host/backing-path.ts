/** Paths of backing files on this host. */
import { dirname, resolve } from "node:path"
import { backingFileName } from "../backing-name.ts"
import type { BackingReference } from "../qcow2/open.ts"

/** The path of the external data file that a new image at `imagePath` is to name, absolute. */
export function newDataFilePath(imagePath: string, name: string): string {
  return resolve(dirname(imagePath), name)
}

/** The path of the file that an image names, absolute. @throws BackingError `unsupported` when it names no file */
export function backingPath(reference: BackingReference): string {
  const { path, toImage } = backingFileName(reference)
  return toImage ? resolve(dirname(reference.imagePath), path) : resolve(path)
}
