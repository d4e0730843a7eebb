/** The sources of disks, and the checks of a source before it is used. */
import { checkMembers, described, type Rules } from "../../options.ts"
import type { AsyncImageFile } from "../async-image-file.ts"
import { BackingError, checkBacking, type VirtioBacking } from "../backing.ts"
import { checkImageFile, type ImageFile } from "../image-file.ts"
import { sourceError } from "./source-error.ts"

/** What a disk can be opened from: a file that answers later, a file that answers at once, or a disk, which is used as it is. */
export type DiskSource = AsyncImageFile | ImageFile | VirtioBacking

const ASYNC_FILE_RULES: Rules<AsyncImageFile> = {
  path: "string", readOnly: "boolean", lock: "any?", preferredRead: "number?", largestSize: "number?", size: "function", read: "function",
  readScattered: "function?", flowsFrom: "any?", readFlow: "function?", write: "function?", truncate: "function?", sync: "function?",
  punchHole: "function?", zeroRange: "function?", disk: "function?", version: "function?", close: "function",
}

export function isBacking(source: DiskSource): source is VirtioBacking {
  return "pread" in source
}

/** The methods of an `ImageFile` that an `AsyncImageFile` does not have. */
export function isImageFile(source: AsyncImageFile | ImageFile): source is ImageFile {
  return "readInto" in source || "readv" in source
}

/** @throws TypeError for anything but the three kinds of source */
export function checkSource(what: string, source: DiskSource | undefined): asserts source is DiskSource {
  const given: unknown = source
  if ((typeof given !== "object" && typeof given !== "function") || given === null || source === undefined) {
    const remedy = typeof given === "string" ? "; openImage opens a file by its path, httpFile takes a URL" : ""
    throw new TypeError(`openDisk: ${what} must be an AsyncImageFile, an ImageFile or a VirtioBacking, not ${described(given)}${remedy}`)
  }
  const maker = given instanceof Blob ? "blobFile" : given instanceof URL ? "httpFile" : undefined
  if (maker !== undefined) throw new TypeError(`openDisk: ${what} is ${described(given)}; ${maker} makes a source of it`)
  if (isBacking(source)) checkBacking("openDisk", source)
  else if (isImageFile(source)) checkImageFile("openDisk", source)
  else checkMembers("openDisk", what, source, ASYNC_FILE_RULES, "AsyncImageFile")
}

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
