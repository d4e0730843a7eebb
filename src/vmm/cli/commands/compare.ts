/** `vioblk compare`: do two images have the same content? Output and exit codes are those of `qemu-img compare`. */
import { BackingError, type VirtioBacking } from "../../../backing/backing.ts"
import { compareDisks, type Comparison } from "../../../backing/operations/compare.ts"
import { openSource } from "../../../backing/operations/convert/source-image.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { imageNamed } from "../image-name.ts"
import { complain, print, printJson } from "../output.ts"
import { longWork } from "../long-work.ts"

/** Exit codes beside 0 (the images are the same) and 1 (they differ). */
const CANNOT_OPEN = 2
const CANNOT_READ = 4

const SECTOR = 512
const CACHE_MODES = ["none", "writeback", "writethrough", "directsync", "unsafe"]

export async function compare(given: Arguments): Promise<number> {
  const [first, second, extra] = given.words
  if (second === undefined || extra !== undefined) throw new UsageError("compare takes two images")
  const disks: VirtioBacking[] = []
  try {
    given.choice("source-cache", CACHE_MODES)
    for (const [word, option] of [[first, "format"], [second, "second-format"]] as const) {
      const { path, format, passphrase } = imageNamed(given, word, { format: option })
      disks.push(openSource(path, { passphrase, ignoreLocks: given.flag("force-share"), ...(format !== undefined && { format }) }))
    }
    const [one, other] = disks
    if (one === undefined || other === undefined) throw new Error("there are two images")
    return await compareBoth(given, one, other)
  } catch (error) {
    if (!(error instanceof BackingError) && !(error instanceof UsageError)) throw error
    complain(error.message)
    return disks.length < 2 ? CANNOT_OPEN : CANNOT_READ
  } finally {
    for (const disk of disks) await disk.close()
  }
}

async function compareBoth(given: Arguments, one: VirtioBacking, other: VirtioBacking): Promise<number> {
  const strict = given.flag("strict")
  const result = await longWork(given, "nothing was changed", (watch) => compareDisks(one, other, { strict, ...watch }))
  if (given.json) printJson(result)
  else if (!given.flag("quiet")) for (const line of resultLines(result)) print(line)
  return result.same ? 0 : 1
}

function resultLines({ same, difference, offset = 0, sizesDiffer }: Comparison): string[] {
  if (difference === "size") return ["Strict mode: Image size mismatch!"]
  const warning = sizesDiffer ? ["Warning: Image size mismatch!"] : []
  const sector = Math.floor(offset / SECTOR) * SECTOR
  if (same) return [...warning, "Images are identical."]
  if (difference === "allocation") return [`Strict mode: Offset ${sector} block status mismatch!`]
  return [...warning, `Content mismatch at offset ${sector}!`]
}
