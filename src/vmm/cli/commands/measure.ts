/** `vioblk measure`: how large a file would be that holds an image. Keys and lines are those of `qemu-img measure`. */
import { type Measurement, measureDisk, type MeasureOptions } from "../../../backing/operations/measure.ts"
import { openSource } from "../../../backing/operations/convert/source-image.ts"
import { Qcow2Image } from "../../../backing/qcow2/image.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { givenOptions, helpsWithOptions } from "../create-options.ts"
import { imageOf, snapshotOf } from "../image-name.ts"
import { print, printJson } from "../output.ts"

export async function measure(given: Arguments): Promise<number> {
  const format = given.choice("output-format", ["raw", "qcow2"]) ?? "raw"
  if (helpsWithOptions(given, format)) return 0
  const size = given.size("size")
  if (size !== undefined && given.words.length > 0) throw new UsageError("--size is in place of an image: give one of them")
  const options = { ...givenOptions(given, format), format }
  const result: Measured = size === undefined ? await measureImage(given, options) : await measureDisk(undefined, { ...options, size })
  const { required, fullyAllocated, bitmaps } = result
  if (given.json) printJson({ ...(bitmaps !== undefined && { bitmaps }), required, "fully-allocated": fullyAllocated })
  else {
    const lines = [`required size: ${required}`, `fully allocated size: ${fullyAllocated}`]
    for (const line of bitmaps === undefined ? lines : [...lines, `bitmaps size: ${bitmaps}`]) print(line)
  }
  return 0
}

interface Measured extends Measurement {
  /** Bytes of the image's bitmaps; left out where it can have none. */
  readonly bitmaps?: number
}

async function measureImage(given: Arguments, options: MeasureOptions): Promise<Measured> {
  const { path, format, passphrase } = imageOf(given)
  const disk = openSource(path, {
    passphrase,
    ignoreLocks: given.flag("force-share"),
    ...snapshotOf(given),
    ...(format !== undefined && { format })
  })
  try {
    const takesBitmaps = options.format === "qcow2" && disk instanceof Qcow2Image && disk.geometry.version === 3
    // Bitmaps are not copied by `convert`, so they take no space.
    return { ...(await measureDisk(disk, options)), ...(takesBitmaps && { bitmaps: 0 }) }
  } finally {
    await disk.close()
  }
}
