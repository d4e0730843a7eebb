/** convertImage: makes a new image of another one, by path, as `qemu-img convert` does. */
import { checkCount, checkOptions, checkValue, type Rules } from "../../options.ts"
import { BackingError, type VirtioBacking } from "../backing.ts"
import { CREATE_IMAGE_RULES, createImage, type CreateImageOptions } from "../create.ts"
import { writeReplacing } from "../host/replaced-file.ts"
import { openImage, type OpenImageOptions } from "../open.ts"
import { Qcow2Image } from "../qcow2/image.ts"
import { CONVERT_RULES, type ConvertOptions, convertDisk } from "./convert.ts"

/** Options of `convertImage`: those of `convertDisk`, and those of the new image. Its size is the source's unless it is given. */
export interface ConvertImageOptions extends Omit<ConvertOptions, "targetIsZero" | "onlyOwn">, CreateImageOptions {
  /** How the source is opened: its format, for instance. It is read-only. */
  readonly source?: Omit<OpenImageOptions, "readOnly">
}

const RULES: Rules<ConvertImageOptions> = { ...withoutTarget(), ...CREATE_IMAGE_RULES, source: "object?" }

function withoutTarget(): Omit<typeof CONVERT_RULES, "targetIsZero" | "onlyOwn"> {
  const { targetIsZero: _, onlyOwn: __, ...rules } = CONVERT_RULES
  return rules
}

/**
 * Makes a new image at `target` that holds what the image at `source` reads as. It has a temporary name until it is whole; then it takes
 * the place of a file that may be there. With `backing`, only what the source holds itself is copied: its own backing file has to have the
 * content of the new one.
 * @throws BackingError (as a rejection) as `openImage` and `createImage` do, and what reading and writing fail with: then the source and
 * what was at `target` are as they were
 * @throws the signal's reason when it is stopped
 */
export async function convertImage(source: string, target: string, options: ConvertImageOptions = {}): Promise<void> {
  checkValue("convertImage", "source", source, "string")
  checkValue("convertImage", "target", target, "string")
  checkOptions("convertImage", options, RULES)
  checkCount("convertImage", "size", options.size, 0)
  const { progress, signal, sparseSize, compressed, parallel, source: opening, ...creating } = options
  await writeReplacing(target, async (temporary) => {
    const disk = openImage(source, { lockReadOnly: true, ...opening, readOnly: true })
    try {
      const converting = { progress, signal, sparseSize, compressed, parallel }
      await convertInto(disk, temporary, { creating, converting: given(converting) })
    } finally {
      disk.close()
    }
  })
}

interface Making {
  readonly creating: CreateImageOptions
  readonly converting: ConvertOptions
}

/** Makes the image at `path`, which does not exist, and copies `source` into it. */
export async function convertInto(source: VirtioBacking, path: string, { creating, converting }: Making): Promise<void> {
  const { format = "qcow2", backing } = creating
  if (backing !== undefined && !(source instanceof Qcow2Image)) {
    throw new BackingError("invalid-argument", "an image over a backing file is made of a qcow2 image, not of a raw one")
  }
  createImage(path, { ...creating, size: creating.size ?? source.size })
  const target = openImage(path, { format })
  try {
    const isZero = backing === undefined
    await convertDisk(source, target, { ...converting, targetIsZero: isZero, onlyOwn: !isZero })
  } finally {
    target.close()
  }
}

/** The members that are not undefined. */
function given(options: { readonly [K in keyof ConvertOptions]: ConvertOptions[K] | undefined }): ConvertOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
}
