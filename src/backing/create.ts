/** Makes new disk images by path, as `qemu-img create` does. */
import { checkOptions, checkValue, type Rules } from "../options.ts"
import { BackingError } from "./backing.ts"
import { backingPath, newDataFilePath } from "./host/backing-path.ts"
import { nodeCryptography } from "./host/node-cryptography.ts"
import { removeHostFile } from "./host/host-file.ts"
import { writeNew } from "./host/new-file.ts"
import type { ImageFile } from "./image-file.ts"
import { writeVolume } from "./luks/raw-luks.ts"
import { type ImageFormat, openLayers } from "./open.ts"
import { CREATE_QCOW2_RULES, type CreateQcow2Options, createQcow2 } from "./qcow2/create.ts"

/** Options of `createImage`. Sizes are in bytes. */
export interface CreateImageOptions extends Omit<CreateQcow2Options, "size"> {
  /**
   * Guest-visible bytes, rounded up to a multiple of 512. Default with a backing file: the size of that one. (No passphrase is needed to
   * read it.)
   */
  readonly size?: number
  /** Default "qcow2". A raw image takes no option but the size, a LUKS image that and `encryption`. */
  readonly format?: ImageFormat
}

export const CREATE_IMAGE_RULES: Rules<CreateImageOptions> = { ...CREATE_QCOW2_RULES, size: "number?", format: ["raw", "qcow2", "luks"] }

/**
 * Makes a new image at `path`, which must not exist yet.
 * @throws BackingError `exists`; `invalid-argument` for options that contradict each other or exceed the format's limits; errors of opening
 * the backing file. Then nothing is left behind.
 * @throws TypeError for a wrong argument: an option that does not exist, or a value of the wrong type
 */
export function createImage(path: string, options: CreateImageOptions): void {
  makeImage(path, options, { ignoreLocks: false })
}

/** `createImage` at a path that nobody else knows: without a lock, which would take a process. */
export function createHiddenImage(path: string, options: CreateImageOptions): void {
  makeImage(path, options, { ignoreLocks: true })
}

function makeImage(path: string, options: CreateImageOptions, locking: { readonly ignoreLocks: boolean }): void {
  checkValue("createImage", "path", path, "string")
  checkOptions("createImage", options, CREATE_IMAGE_RULES)
  const size = options.size ?? backingSize(path, options)
  const { format = "qcow2", ...qcow2 } = options
  if (format !== "qcow2") refuseRawOptions(path, { ...options, format }, size)
  else if (options.backing !== undefined && options.size !== undefined && options.backingFormat !== undefined) backingSize(path, options)
  const fill = (file: ImageFile): void => {
    if (format === "raw") file.truncate(wholeSectors(size))
    else if (format === "luks") writeVolume(file, { size: wholeSectors(size), encryption: qcow2.encryption }, nodeCryptography)
    else createQcow2(file, { ...qcow2, size }, nodeCryptography)
  }
  const write = (): void => writeNew(path, fill, locking)
  if (options.dataFile === undefined || options.dataFile === "") write()
  else writeWithData({ path, name: options.dataFile, size }, write)
}

/** Makes the external data file, and the image by `write`, or neither. */
function writeWithData(
  { path, name, size }: { readonly path: string; readonly name: string; readonly size: number },
  write: () => void,
): void {
  const dataPath = newDataFilePath(path, name)
  if (dataPath === newDataFilePath(path, path)) {
    throw new BackingError("invalid-argument", "the data file cannot be the image itself", { path })
  }
  // Refused before the file exists, and not by the host, whose message would be about a file.
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new BackingError("invalid-argument", `the size ${size} is not a number of bytes`, { path })
  }
  writeNew(dataPath, (file) => file.truncate(wholeSectors(size)))
  try {
    write()
  } catch (error) {
    removeHostFile(dataPath)
    throw error
  }
}

function wholeSectors(size: number): number {
  return Math.ceil(size / 512) * 512
}

function backingSize(path: string, options: CreateImageOptions): number {
  if (options.backing === undefined) {
    throw new BackingError("invalid-argument", "a new image needs a size, or a backing file to take it from", { path })
  }
  if (options.backingFormat === undefined) {
    throw new BackingError("invalid-argument", `the format of the backing file "${options.backing}" must be given`, { path })
  }
  const backingFile = backingPath({ name: options.backing, format: options.backingFormat, imagePath: path })
  const backing = openLayers(backingFile, { format: options.backingFormat, readOnly: true, ignoreLocks: true }, { isLocked: true })
  try {
    return backing.size
  } finally {
    backing.close()
  }
}

function refuseRawOptions(path: string, options: CreateImageOptions, size: number): void {
  if (!Number.isSafeInteger(wholeSectors(size)) || size < 0) {
    throw new BackingError("invalid-argument", `the size ${size} is not a number of bytes from 0 to 2^53 - 512`, { path })
  }
  const taken = ["size", "format", ...(options.format === "luks" ? ["encryption"] : [])]
  const given = Object.entries(options).find(([name, value]) => !taken.includes(name) && value !== undefined)
  if (given !== undefined) throw new BackingError("invalid-argument", `a ${options.format} image has no option "${given[0]}"`, { path })
}
