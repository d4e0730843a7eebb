/** `vioblk measure`: computes how large the file of an image would be. Keys and lines are those of `qemu-img measure`. */
import { type Measurement, measureDisk, type MeasureOptions } from "../../../backing/operations/measure.ts"
import { openSource } from "../../../backing/operations/convert/source-image.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { givenOptions, helpsWithOptions } from "../create-options.ts"
import { imageOf, snapshotOf } from "../image-name.ts"
import { print, printJson } from "../output.ts"

export async function measure(given: Arguments): Promise<number> {
  const format = given.choice("output-format", ["raw", "qcow2", "luks"]) ?? "raw"
  if (helpsWithOptions(given, format)) return 0
  const size = given.size("size")
  if (size !== undefined && given.words.length > 0) throw new UsageError("--size and an image exclude each other")
  const options = { ...givenOptions(given, format), format }
  const result = size === undefined ? await measureImage(given, options) : await measureDisk(undefined, { ...options, size })
  const { required, fullyAllocated, bitmaps } = result
  if (given.json) printJson({ ...(bitmaps !== undefined && { bitmaps }), required, "fully-allocated": fullyAllocated })
  else {
    const lines = [`required size: ${required}`, `fully allocated size: ${fullyAllocated}`]
    for (const line of bitmaps === undefined ? lines : [...lines, `bitmaps size: ${bitmaps}`]) print(line)
  }
  return 0
}

async function measureImage(given: Arguments, options: MeasureOptions): Promise<Measurement> {
  const { path, format, passphrase } = imageOf(given)
  const disk = openSource(path, {
    passphrase,
    ignoreLocks: given.flag("force-share"),
    ...snapshotOf(given),
    ...(format !== undefined && { format })
  })
  try {
    return await measureDisk(disk, options)
  } finally {
    await disk.close()
  }
}
