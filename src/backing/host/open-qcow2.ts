/** Opens qcow2 images with what Node supplies: its decompressor. */
import type { ImageFile } from "../image-file.ts"
import type { Qcow2Image } from "../qcow2/image.ts"
import { openQcow2Image, type Qcow2Options } from "../qcow2/open.ts"
import { nodeDecompressor } from "./inflate.ts"

/** `openQcow2Image`, with Node's decompressor unless the options name another. Throws as that does. */
export function openQcow2(file: ImageFile, options: Qcow2Options = {}): Qcow2Image {
  return openQcow2Image(file, { decompressor: nodeDecompressor, ...options })
}
