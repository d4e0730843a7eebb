/** The block device's part of a saved state: the version of its image, and whether it was made read-only. */
import type { DiskVersion, VirtioBacking } from "../../backing/backing.ts"
import { savedObject, shown } from "../../saved-state.ts"
import type { VirtioDevice } from "../device.ts"
import { readCapacity, writeCapacity } from "./config.ts"

/** JSON values. */
export interface SavedDisk {
  /** Undefined for a disk without a version. */
  readonly version?: DiskVersion | undefined
  /** Whether an option or `setReadOnly` has made it read-only. */
  readonly readOnly: boolean
  /** Whether the driver was offered RO: false if the disk became read-only later. Undefined in states of older versions. */
  readonly offersReadOnly?: boolean | undefined
  /** The levels of its throttle, see `Throttle.saveState`. */
  readonly throttle?: unknown
}

/** Maximum of characters of a name in a message. Paths are long. */
const MOST_SHOWN = 300

const REMEDY = 'a state goes with the disk as it was; pass { image: "any" } to restore it over a copy'

/** @throws Error for anything but the saved part of a block device. Undefined is valid: states of older versions have none. */
export function parseSavedDisk(value: unknown): SavedDisk {
  if (value === undefined) return { readOnly: false }
  const { version, readOnly, offersReadOnly, throttle } = savedObject(value, "disk")
  return {
    version: version === undefined ? undefined : parseVersion(version), readOnly: readOnly === true,
    offersReadOnly: typeof offersReadOnly === "boolean" ? offersReadOnly : undefined, throttle,
  }
}

function parseVersion(value: unknown): DiskVersion {
  const { image, generation } = savedObject(value, "version of the image")
  if (typeof image !== "string" || (generation !== undefined && typeof generation !== "string")) {
    throw new Error("saved state: version of the image: not texts")
  }
  return { image, ...(generation === undefined ? {} : { generation }) }
}

/** @throws Error if the state was saved over another image than `backing`, or if it has changed since */
export function checkVersion(saved: DiskVersion | undefined, backing: VirtioBacking): void {
  if (saved === undefined) return
  const found = backing.version?.()
  const { image, generation } = saved
  if (found?.image !== image) {
    const ours = found === undefined ? "this disk" : text(found.image)
    throw new Error(`saved state: it is of another image: of ${text(image)}, not of ${ours}; ${REMEDY}`)
  }
  if (found.generation === generation) return
  throw new Error(
    `saved state: the image ${text(image)} has been changed since (it was ${text(generation)}, it is ${text(found.generation)}); ${REMEDY}`,
  )
}

/** Tells the driver if the capacity differs from the `saved` configuration. While the device is suspended, the driver sees the old one. */
export function restoreCapacity(saved: Uint8Array, disk: { readonly capacity: number }, device: VirtioDevice): void {
  const { config, negotiation, suspension } = device
  const view = new DataView(saved.buffer, saved.byteOffset)
  const sectors = readCapacity(view)
  if (sectors === readCapacity(config.fields)) return
  if (negotiation.isSuspended) {
    writeCapacity(config.fields, sectors)
    suspension.change(() => writeCapacity(config.fields, disk.capacity))
  }
  device.configChanged()
}

function text(value: string | undefined): string {
  return shown(value, MOST_SHOWN)
}
