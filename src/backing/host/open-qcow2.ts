/** Opens qcow2 images with Node's decompressor and cryptography. */
import { checkCount, checkOptions } from "../../options.ts"
import type { ImageFile } from "../image-file.ts"
import type { Qcow2Image } from "../qcow2/image.ts"
import { checkPassphrase } from "../luks/passphrase.ts"
import { openQcow2Image, QCOW2_RULES, type Qcow2Options } from "../qcow2/open.ts"
import { nodeCryptography } from "./node-cryptography.ts"
import { nodeDecompressor } from "./node-decompressor.ts"

/**
 * Opens the qcow2 image in `file`, and owns `file` from then on; when it throws, the caller still does. Node's decompressor reads
 * compressed clusters unless the options name another. Opened for writing, a dirty image is repaired.
 * @throws BackingError `invalid-format`, `unsupported`, `corrupt`, or errors of the file and the backing file
 * @throws TypeError for wrong arguments
 */
export function openQcow2(file: ImageFile, options: Qcow2Options = {}): Qcow2Image {
  checkOptions("openQcow2", options, QCOW2_RULES)
  checkCount("openQcow2", "cacheSize", options.cacheSize, 0)
  checkPassphrase("openQcow2", options.passphrase)
  const { decompressor = nodeDecompressor, cryptography = nodeCryptography } = options
  return openQcow2Image(file, { ...options, decompressor, cryptography })
}
