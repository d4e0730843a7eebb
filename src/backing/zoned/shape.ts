/** How a disk is cut into zones: the options that say so, with their defaults, and what cannot be. */
import { checkOptions, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import type { ZoneShape } from "./zone-table.ts"

/** Options of `zonedDisk` and `createZonedImage`. Sizes are in bytes. */
export interface ZoneOptions {
  /** Bytes of a zone: a multiple of 512. Linux takes powers of two only. */
  readonly zoneSize: number
  /** Bytes of a sequential zone that can be written. Default `zoneSize`. */
  readonly zoneCapacity?: number
  /** The first so many zones take writes anywhere. Default 0. */
  readonly conventionalZones?: number
  /** Most zones that are open, and that are open or closed, at a time. Default 0: any number. */
  readonly maxOpenZones?: number
  readonly maxActiveZones?: number
  /** Most bytes of one append; a device lets guests append 1 MiB at most. 0: there is no append. Default 1 MiB, or `zoneCapacity`. */
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
/** A table of more zones would take longer to look through than a request may. */
export const MAX_ZONES = 1 << 20

/** The zones of a disk of `size` bytes. @throws TypeError for wrong options; BackingError `invalid-argument` for zones that cannot be */
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

/** What is wrong with a shape, in words; undefined for a good one. */
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
