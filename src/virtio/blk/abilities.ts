/** Checks that a new backing can do everything that the driver has negotiated with the old one. */
import type { VirtioBacking } from "../../backing/backing.ts"
import { hasBit } from "../spec.ts"
import { VIRTIO_BLK_F } from "./spec.ts"

/** The features that depend on the backing. */
const ABILITIES = ["FLUSH", "DISCARD", "WRITE_ZEROES", "SECURE_ERASE", "LIFETIME"] as const

/** The numbers of a zoned disk that a driver reads once. */
const ZONE_NUMBERS = ["model", "zoneSize", "maxOpenZones", "maxActiveZones", "maxAppendSize", "writeGranularity"] as const

/**
 * `reliedOn`: the features that the driver relies on. `features`: those of the new backing.
 * @throws Error if some are missing. Features for changes are not required of a read-only disk, which refuses changes anyway.
 */
export function checkAbilities(reliedOn: bigint, features: bigint): void {
  const isReadOnly = hasBit(features, VIRTIO_BLK_F.RO)
  const missing = ABILITIES.filter((name) => {
    const isRefused = isReadOnly && name !== "FLUSH" && name !== "LIFETIME"
    return !isRefused && hasBit(reliedOn, VIRTIO_BLK_F[name]) && !hasBit(features, VIRTIO_BLK_F[name])
  })
  if (missing.length === 0) return
  throw new Error(
    `the guest's driver uses ${missing.join(" and ")}, which the new disk cannot do: give one that can, or reset the device first`,
  )
}

/** @throws Error if the two disks differ in their zones, which a driver reads only once */
export function checkSameZones({ zones: before }: VirtioBacking, { zones }: VirtioBacking): void {
  const isSame = before === undefined || zones === undefined ? before === zones : ZONE_NUMBERS.every((name) => before[name] === zones[name])
  if (!isSame) {
    throw new Error("the guest's driver knows the zones of the disk, and the new one has others, or none: reset the device first")
  }
}
