/** Opens qcow2 images with what Node supplies: its decompressor. */
import { checkOptions } from "../../options.ts"
import type { ImageFile } from "../image-file.ts"
import type { Qcow2Image } from "../qcow2/image.ts"
import { openQcow2Image, QCOW2_RULES, type Qcow2Options } from "../qcow2/open.ts"
import { nodeDecompressor } from "./inflate.ts"

/** `openQcow2Image`, with Node's decompressor unless the options name another. Throws as that does, and TypeError for wrong options. */
export function openQcow2(file: ImageFile, options: Qcow2Options = {}): Qcow2Image {
  checkOptions("openQcow2", options, QCOW2_RULES)
  return openQcow2Image(file, { ...options, decompressor: options.decompressor ?? nodeDecompressor })
}
