/** Checks a source before it is used. */
import type { AsyncImageFile } from "../async-image-file.ts"
import { BackingError } from "../backing.ts"
import { sourceError } from "./source-error.ts"

/**
 * Resolves to the size of the file in `source`, in bytes.
 * @throws BackingError the source's error, or `io` for an invalid size
 * @throws TypeError when the source will be written but lacks a method, so that writes would get lost, or when its `preferredRead` or
 * `largestSize` is invalid
 */
export async function examineSource(source: AsyncImageFile, { isWritten }: { readonly isWritten: boolean }): Promise<number> {
  if (isWritten) refuseUnwritable(source)
  const { preferredRead = 1 } = source
  if (!Number.isSafeInteger(preferredRead) || preferredRead <= 0) {
    throw new TypeError(`${source.path}: preferredRead of the file is ${preferredRead}; it must be a number of bytes, 1 or more`)
  }
  const size = await sizeOf(source)
  const { largestSize = 0 } = source
  if (largestSize !== Number.POSITIVE_INFINITY && (!Number.isSafeInteger(largestSize) || largestSize < 0)) {
    throw new TypeError(`${source.path}: largestSize of the file is ${largestSize}; it must be a number of bytes`)
  }
  if (Number.isSafeInteger(size) && size >= 0) return size
  throw new BackingError("io", `its source says that it has ${String(size)} bytes`, { path: source.path })
}

/** @throws TypeError for a file that lacks a method for writing: writes would get lost */
export function refuseUnwritable(file: Pick<AsyncImageFile, "path"> & Partial<Record<"write" | "truncate" | "sync", unknown>>): void {
  const missing = (["write", "truncate", "sync"] as const).find((name) => file[name] === undefined)
  if (missing === undefined) return
  const remedy = "it must be readOnly, or have write, truncate and sync: see the interface AsyncImageFile"
  throw new TypeError(`${file.path}: the file is not readOnly, but has no ${missing}; ${remedy}`)
}

async function sizeOf(source: AsyncImageFile): Promise<number> {
  try {
    return await source.size()
  } catch (error) {
    throw sourceError(error, "find its size", source.path)
  }
}
