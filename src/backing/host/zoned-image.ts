/** Zoned disks by path: a raw image, and a file beside it ("disk.img.zones") that stores the zones. */
import { checkOptions, checkValue, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import { writeNew } from "./new-file.ts"
import { removeHostFile } from "./host-file.ts"
import { LockedFile } from "./image-lock.ts"
import { RawBacking } from "../raw.ts"
import { ZONE_OPTIONS_RULES, type ZoneOptions, zoneShape } from "../zoned/shape.ts"
import { createSideFile, openSideFile } from "../zoned/side-file.ts"
import { ZonedDisk } from "../zoned/zoned-disk.ts"

/** Options of `createZonedImage`. */
export interface CreateZonedImageOptions extends ZoneOptions {
  /** Bytes: a multiple of 512. */
  readonly size: number
}

/** Options of `openZonedImage`. */
export interface OpenZonedImageOptions {
  /** Default false. */
  readonly readOnly?: boolean
}

const SUFFIX = ".zones"

/**
 * Makes a raw image at `path`, and the file `path`.zones, neither of which may exist yet. All zones are empty.
 * @throws BackingError `exists`; `invalid-argument` for wrong zones. Then nothing is left behind.
 * @throws TypeError for a wrong argument
 */
export function createZonedImage(path: string, options: CreateZonedImageOptions): void {
  checkValue("createZonedImage", "path", path, "string")
  const rules: Rules<CreateZonedImageOptions> = { ...ZONE_OPTIONS_RULES, size: "number" }
  checkOptions("createZonedImage", options, rules)
  const { size, ...zones } = options
  const shape = zoneShape("createZonedImage", size, zones)
  writeNew(path, (file) => file.truncate(size))
  try {
    writeNew(path + SUFFIX, (file) => createSideFile(file, shape))
  } catch (error) {
    removeHostFile(path)
    throw error
  }
}

/**
 * Opens a disk of `createZonedImage`. Open zones become closed, as on a drive after a loss of power.
 * @throws BackingError `not-found`, `permission`, `busy`, `invalid-format`, `unsupported`, `corrupt`
 * @throws TypeError for a wrong argument
 */
export function openZonedImage(path: string, options: OpenZonedImageOptions = {}): ZonedDisk {
  checkValue("openZonedImage", "path", path, "string")
  checkOptions("openZonedImage", options, { readOnly: "boolean?" })
  const readOnly = options.readOnly ?? false
  const open = (name: string): LockedFile => {
    const file = new LockedFile(name, { readOnly, lockReadOnly: !readOnly })
    try {
      file.claim()
    } catch (error) {
      file.close()
      throw error
    }
    return file
  }
  const image = open(path)
  let side: LockedFile | undefined
  try {
    side = open(path + SUFFIX)
    const { table, store } = openSideFile(side, image.size())
    return new ZonedDisk(new RawBacking(image), table, store)
  } catch (error) {
    image.close()
    side?.close()
    if (side === undefined && error instanceof BackingError && error.code === "not-found") {
      const message = `the file ${path}${SUFFIX}, which keeps its zones, is missing; createZonedImage makes both`
      throw new BackingError("not-found", message, { path, cause: error })
    }
    throw error
  }
}
