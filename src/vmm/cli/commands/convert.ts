/** `vioblk convert`: makes an image of another format, or another shape, of one or more images. */
import type { VirtioBacking } from "../../../backing/backing.ts"
import { openImage } from "../../../backing/open.ts"
import { Concatenation } from "../../../backing/operations/convert/concatenation.ts"
import { type ConvertOptions, convertDisk } from "../../../backing/operations/convert/convert.ts"
import { convertToImage } from "../../../backing/operations/convert/convert-image.ts"
import { type BitmapChoice, bitmapsOf, chooseBitmaps, copyBitmaps } from "../../../backing/operations/convert/copy-bitmaps.ts"
import { openSource } from "../../../backing/operations/convert/source-image.ts"
import { type Arguments, nameOf, UsageError } from "../arguments.ts"
import type { ImageFormat } from "../../../backing/signatures.ts"
import { defined, givenOptions, helpsWithOptions, wantsSpace } from "../create-options.ts"
import { dataHolder, fillHoles } from "../fill-holes.ts"
import { imageNamed, snapshotOf } from "../image-name.ts"
import { longWork, stoppable } from "../long-work.ts"
import { complain } from "../output.ts"

export async function convert(given: Arguments): Promise<number> {
  const format = given.choice("output-format", ["raw", "qcow2", "luks"]) ?? "raw"
  if (helpsWithOptions(given, format)) return 0
  const names = given.words.slice(0, -1)
  if (names.length === 0) throw new UsageError("convert needs an image, and the name of the new one")
  const target = nameOf("new image", given.words.at(-1))
  if (given.flag("compress") && format !== "qcow2") throw new UsageError("-c needs -O qcow2: only qcow2 images have compressed clusters")
  const options = convertOptions(given)
  const bitmaps = bitmapChoice(given, names)
  const source = openSources(given, names)
  try {
    for (const name of skippedBitmaps(source, bitmaps)) complain(`bitmap "${name}" is not consistent, and is left out`)
    if (given.flag("no-create")) await convertInto(given, { source, target, options, bitmaps })
    else {
      const creating = { ...newImage(given, format), ...(bitmaps !== undefined && { bitmaps }) }
      const leftBehind = `${target} is unchanged`
      await longWork(given, leftBehind, (watch) => convertToImage(source, target, { ...options, ...creating, ...watch }))
      if (wantsSpace(given, format)) {
        const holder = dataHolder(target, creating)
        await stoppable(`${target} is complete, but not all of its space is allocated`, (signal) => fillHoles(holder, signal))
      }
    }
  } finally {
    await source.close()
  }
  return 0
}

/** The options of `--bitmaps`. */
function bitmapChoice(given: Arguments, names: readonly string[]): BitmapChoice | undefined {
  const [isWanted, skips] = [given.flag("bitmaps"), given.flag("skip-broken-bitmaps")]
  if (skips && !isWanted) throw new UsageError(`${given.spelling("skip-broken-bitmaps")} needs --bitmaps`)
  if (isWanted && names.length > 1) throw new UsageError("--bitmaps needs a single image")
  return isWanted ? (skips ? "consistent" : "all") : undefined
}

function skippedBitmaps(source: VirtioBacking, choice: BitmapChoice | undefined): string[] {
  if (choice !== "consistent") return []
  return bitmapsOf(source)?.list().flatMap(({ name, isConsistent }) => (isConsistent ? [] : [name])) ?? []
}

function convertOptions(given: Arguments): ConvertOptions {
  const sparseSize = given.size("sparse-size")
  if (sparseSize !== undefined && sparseSize % 512 !== 0) {
    throw new UsageError(`${given.spelling("sparse-size")} ${sparseSize}: it must be a multiple of 512`)
  }
  const parallel = given.count("coroutines", 1, 16)
  const rate = given.size("rate-limit")
  const salvage = given.flag("salvage") ? true : undefined
  return defined({ sparseSize, parallel, rate, salvage, compressed: given.flag("compress") ? true : undefined })
}

function newImage(given: Arguments, format: ImageFormat) {
  if (given.flag("target-is-zero")) throw new UsageError("--target-is-zero needs -n: a new image is zero anyway")
  const listed = givenOptions(given, format)
  const own = defined({ backing: given.text("backing"), backingFormat: given.choice("backing-format", ["raw", "qcow2", "luks"]) })
  return { ...listed, ...own, format }
}

/** Concatenates the images. If one cannot be opened, none stays open. */
function openSources(given: Arguments, names: readonly string[]): VirtioBacking {
  const disks: VirtioBacking[] = []
  try {
    for (const word of names) {
      const { path, format, passphrase } = imageNamed(given, word)
      disks.push(
        openSource(path, {
          passphrase,
          ignoreLocks: given.flag("force-share"),
          ...snapshotOf(given),
          ...(format !== undefined && { format })
        }),
      )
    }
    const [only] = disks
    return only !== undefined && disks.length === 1 ? only : new Concatenation(disks)
  } catch (error) {
    for (const disk of disks) void disk.close()
    throw error
  }
}

interface Copy {
  readonly source: VirtioBacking
  readonly target: string
  readonly options: ConvertOptions
  readonly bitmaps: BitmapChoice | undefined
}

/** `-n`: converts into an existing image. */
async function convertInto(given: Arguments, { source, target, options, bitmaps }: Copy): Promise<void> {
  for (const name of ["options", "backing"]) {
    if (given.flag(name)) throw new UsageError(`${given.spelling(name)} is for a new image: leave out -n`)
  }
  const { path, format, passphrase } = imageNamed(given, target, { format: "output-format", keyed: "target-image-opts" })
  const image = openImage(path, { format: format ?? "raw", passphrase })
  try {
    const chosen = bitmaps === undefined ? [] : chooseBitmaps(source, bitmaps, { size: image.size, disk: image })
    const copying = { ...options, targetIsZero: given.flag("target-is-zero") }
    await longWork(given, `${path} holds a part of the copy`, (watch) => convertDisk(source, image, { ...copying, ...watch }))
    if (chosen.length > 0) copyBitmaps(source, image, chosen)
  } finally {
    image.close()
  }
}
