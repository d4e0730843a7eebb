/** Makes qcow2 images with Node's cryptography, for encrypted ones. */
import type { ImageFile } from "../image-file.ts"
import { createQcow2 as makeQcow2, type CreateQcow2Options } from "../qcow2/create.ts"
import { nodeCryptography } from "./node-cryptography.ts"

/**
 * Writes a new image into `file`, which is empty. The header is written last, so that an incomplete file is not taken for an image.
 * @throws BackingError `invalid-argument`, with nothing written
 */
export function createQcow2(file: ImageFile, options: CreateQcow2Options): void {
  makeQcow2(file, options, nodeCryptography)
}
