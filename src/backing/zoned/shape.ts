/** The division of a disk into zones: options, defaults and checks. */
import { checkOptions, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import type { ZoneShape } from "./zone-table.ts"

/** Options of `zonedDisk` and `createZonedImage`. Sizes are in bytes. */
export interface ZoneOptions {
  /** Bytes of a zone: a multiple of 512. Linux takes powers of two only. */
  readonly zoneSize: number
  /** Bytes of a sequential zone that can be written. Default `zoneSize`. */
  readonly zoneCapacity?: number
  /** The number of conventional zones, which come first. Default 0. */
  readonly conventionalZones?: number
  /** Maximum of open zones, and of active (open or closed) zones. Default 0: no limit. */
  readonly maxOpenZones?: number
  readonly maxActiveZones?: number
  /**
   * Maximum of bytes of one append; a device allows guests at most 1 MiB. 0: no append. Default 1 MiB, or `zoneCapacity` if that is less.
   */
  readonly maxAppendSize?: number
  /** Writes to sequential zones begin and end at multiples of so many bytes. Default 512. */
  readonly writeGranularity?: number
}

export const ZONE_OPTIONS_RULES: Rules<ZoneOptions> = {
  zoneSize: "number", zoneCapacity: "number?", conventionalZones: "number?", maxOpenZones: "number?", maxActiveZones: "number?",
  maxAppendSize: "number?", writeGranularity: "number?",
}

const SECTOR = 512
const DEFAULT_APPEND = 1 << 20
/** Searching a table of more zones would take too long for a request. */
export const MAX_ZONES = 1 << 20

/** The zones of a disk of `size` bytes. @throws TypeError for wrong options; BackingError `invalid-argument` for wrong zones */
export function zoneShape(who: string, size: number, options: ZoneOptions): ZoneShape {
  checkOptions(who, options, ZONE_OPTIONS_RULES)
  const { zoneSize, zoneCapacity = zoneSize, conventionalZones = 0, maxOpenZones = 0, maxActiveZones = 0 } = options
  const {
    writeGranularity = SECTOR,
    maxAppendSize = Math.floor(Math.min(DEFAULT_APPEND, zoneCapacity) / writeGranularity) * writeGranularity,
  } = options
  const shape = { size, zoneSize, zoneCapacity, conventionalZones, maxOpenZones, maxActiveZones, maxAppendSize, writeGranularity }
  const problem = shapeProblem(shape)
  if (problem !== undefined) throw new BackingError("invalid-argument", `${who}: ${problem}`)
  return shape
}

/** A message about a wrong shape; undefined for a valid one. */
export function shapeProblem(shape: ZoneShape): string | undefined {
  const { size, zoneSize, zoneCapacity, writeGranularity, maxAppendSize, conventionalZones, maxOpenZones, maxActiveZones } = shape
  if (!isMultiple(writeGranularity, SECTOR) || writeGranularity >= 2 ** 32) {
    return `writeGranularity: ${writeGranularity} is not a multiple of 512`
  }
  if (!isMultiple(zoneSize, writeGranularity) || zoneSize > 2 ** 40) {
    return `zoneSize: ${zoneSize} is not a multiple of ${writeGranularity}, or beyond 1 TiB`
  }
  if (!isMultiple(zoneCapacity, writeGranularity) || zoneCapacity > zoneSize) {
    return `zoneCapacity: ${zoneCapacity} is not a multiple of ${writeGranularity} up to zoneSize (${zoneSize})`
  }
  if (!isMultiple(size, writeGranularity)) return `the size ${size} is not a multiple of ${writeGranularity}`
  const zones = Math.ceil(size / zoneSize)
  if (zones > MAX_ZONES) return `${zones} zones are more than ${MAX_ZONES}: make them larger`
  if (!isCount(conventionalZones, zones)) return `conventionalZones: ${conventionalZones} is not a number from 0 to ${zones}`
  if (!isCount(maxActiveZones, 2 ** 32 - 1)) return `maxActiveZones: ${maxActiveZones} is not a number of zones`
  if (!isCount(maxOpenZones, 2 ** 32 - 1) || (maxActiveZones !== 0 && maxOpenZones > maxActiveZones)) {
    return `maxOpenZones: ${maxOpenZones} is not a number of zones up to maxActiveZones (${maxActiveZones})`
  }
  if (maxAppendSize !== 0 && !isMultiple(maxAppendSize, writeGranularity)) {
    return `maxAppendSize: ${maxAppendSize} is not a multiple of ${writeGranularity}`
  }
  return undefined
}

function isMultiple(bytes: number, unit: number): boolean {
  return Number.isSafeInteger(bytes) && bytes > 0 && bytes % unit === 0
}

function isCount(value: number, most: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value <= most
}
