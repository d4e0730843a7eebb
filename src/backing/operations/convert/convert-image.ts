/** convertImage: makes a new image from another one, by path, like `qemu-img convert`. */
import { checkCount, checkOptions, checkValue, pickOptions, type Rules } from "../../../options.ts"
import { BackingError, type VirtioBacking } from "../../backing.ts"
import { CREATE_IMAGE_RULES, createHiddenImage, type CreateImageOptions } from "../../create.ts"
import { writeReplacing } from "../../host/replaced-file.ts"
import { openImage, type OpenImageOptions } from "../../open.ts"
import { CONVERT_RULES, type ConvertOptions, convertDisk, NOT_BOTH } from "./convert.ts"
import { type BitmapChoice, chooseBitmaps, copyBitmaps } from "./copy-bitmaps.ts"
import { openSource } from "./source-image.ts"

/** Options of the new image, and of the conversion. */
interface ToImageOptions extends Omit<ConvertOptions, "targetIsZero" | "onlyOwn">, CreateImageOptions {
  /**
   * Copies the persistent dirty bitmaps of the source: "all", or only the "consistent" ones. Both images must be qcow2 version 3. Default:
   * none.
   */
  readonly bitmaps?: BitmapChoice
}

/** Options of `convertImage`: those of `convertDisk`, and those of the new image. Its default size is that of the source. */
export interface ConvertImageOptions extends ToImageOptions {
  /** Options for opening the source, for instance its format. It is read-only. */
  readonly source?: Omit<OpenImageOptions, "readOnly">
}

const { targetIsZero: _, onlyOwn: __, ...CONVERTING } = CONVERT_RULES
const TO_IMAGE_RULES: Rules<ToImageOptions> = { ...CONVERTING, ...CREATE_IMAGE_RULES, bitmaps: ["all", "consistent"] }
const RULES: Rules<ConvertImageOptions> = { ...TO_IMAGE_RULES, source: "object?" }

/**
 * Makes a new image at `target` with the content of the image at `source`. It has a temporary name until it is complete; then it replaces
 * an existing file. With `backing`, only the source's own data is copied: the backing files of both images must have the same content.
 * @throws BackingError (as a rejection) errors of `openImage` and `createImage`, of reading and of writing: then neither the source nor a
 * file at `target` has changed
 * @throws the signal's reason when it is stopped
 */
export async function convertImage(source: string, target: string, options: ConvertImageOptions = {}): Promise<void> {
  checkValue("convertImage", "source", source, "string")
  checkValue("convertImage", "target", target, "string")
  checkOptions("convertImage", options, RULES)
  checkCount("convertImage", "size", options.size, 0)
  const { source: opening, ...rest } = options
  const disk = openSource(source, opening)
  try {
    await convertToImage(disk, target, rest)
  } finally {
    await disk.close()
  }
}

/** `convertImage` from an open disk, which stays open. */
export async function convertToImage(source: VirtioBacking, target: string, options: ToImageOptions): Promise<void> {
  const { backing, format = "qcow2" } = options
  if (backing !== undefined && !("map" in source)) {
    throw new BackingError("invalid-argument", "only a qcow2 image can be converted to an image over a backing file", { path: target })
  }
  if (options.compressed === true && options.encryption !== undefined) {
    throw new BackingError("invalid-argument", NOT_BOTH, { path: target })
  }
  const { bitmaps } = options
  if (bitmaps !== undefined && (format !== "qcow2" || options.compat === "0.10")) {
    throw new BackingError("unsupported", "only a qcow2 image of version 3 can have bitmaps", { path: target })
  }
  const chosen = bitmaps === undefined ? [] : chooseBitmaps(source, bitmaps, { size: options.size ?? source.size, disk: undefined })
  // A new LUKS image does not read as zeroes.
  const targetIsZero = backing === undefined && format !== "luks"
  const converting = { ...pickOptions(options, TO_IMAGE_RULES), targetIsZero, onlyOwn: backing !== undefined }
  await writeReplacing(target, async (temporary) => {
    createHiddenImage(temporary, { ...pickOptions<CreateImageOptions>(options, CREATE_IMAGE_RULES), size: options.size ?? source.size })
    const { passphrase } = options.encryption ?? {}
    const image = openImage(temporary, { ignoreLocks: true, format, ...(passphrase !== undefined && { passphrase }) })
    try {
      await convertDisk(source, image, pickOptions<ConvertOptions>(converting, CONVERT_RULES))
      if (chosen.length > 0) copyBitmaps(source, image, chosen)
    } finally {
      image.close()
    }
  })
}
