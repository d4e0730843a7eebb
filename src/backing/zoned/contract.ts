/**
 * The contract between a block device and a zoned disk: most of its zones are written sequentially and reset as a whole ([VIRTIO] 5.2,
 * VIRTIO_BLK_F_ZONED). A zoned disk is a `VirtioBacking` with `zones`. Offsets and lengths are bytes.
 */
import { checkMembers, findAsync, type Rules } from "../../options.ts"

/** The writes that a zone accepts: anywhere, only at its write pointer, or both. */
export type ZoneType = "conventional" | "sequential-required" | "sequential-preferred"

/** "none": of conventional zones, which have no write pointer. Only sequential zones have the other states. */
export type ZoneState = "none" | "empty" | "implicitly-open" | "explicitly-open" | "closed" | "full" | "read-only" | "offline"

/** The present state of one zone. Offsets and lengths in bytes. [VIRTIO] 5.2.6 */
export interface Zone {
  readonly type: ZoneType
  readonly state: ZoneState
  readonly start: number
  /** Bytes from the start on that can be written: `zoneSize` or fewer. */
  readonly capacity: number
  /** The write pointer: the offset of the next write. Meaningless for conventional, full, read-only and offline zones. */
  readonly writePointer: number
}

/** Actions on sequential zones. [VIRTIO] 5.2.6 */
export type ZoneAction = "open" | "close" | "finish" | "reset"

/**
 * The operations of a zoned disk beside reading and writing. Its `pread` and `pwrite` enforce the rules of zones: a call that breaks them
 * fails with a `BackingError` whose code begins with "zone-", and changes nothing. Methods may return promises if the disk is
 * `asynchronous`.
 */
export interface Zones {
  /** "host-managed": a driver must know zones, and there is no discarding. "host-aware": sequential zones accept any write. */
  readonly model: "host-managed" | "host-aware"
  /** Bytes of every zone but the last, which may be shorter. A multiple of 512. */
  readonly zoneSize: number
  /** Maximum of open zones, and of active (open or closed) zones. 0: no limit. */
  readonly maxOpenZones: number
  readonly maxActiveZones: number
  /** Maximum of bytes of one `append`, or 0 without `append`. A device allows guests at most 1 MiB. */
  readonly maxAppendSize: number
  /** Bytes: writes to sequential zones begin and end at multiples of it. A multiple of 512. */
  readonly writeGranularity: number
  /** The zone that holds `offset`, which is inside the disk, and those behind it, `count` at most. */
  report(offset: number, count: number): readonly Zone[]
  /** Checks a whole read or write, which a device calls before it cuts a long one. @throws BackingError if the zones do not permit it */
  check(kind: "read" | "write", offset: number, length: number): void
  /**
   * Stores `buffers` at the write pointer of the zone that begins at `start`. Returns their offset. A failed append has not moved the write
   * pointer, so a stopped disk repeats it when it goes on, unless its error has `mayBeDone`: then the guest gets the error.
   */
  append(buffers: readonly Uint8Array[], start: number): number | Promise<number>
  /** Applies `action` to the zone that begins at `start`. */
  act(action: ZoneAction, start: number): void | Promise<void>
  /** Empties every sequential zone that is not read-only or offline. */
  resetAll(): void | Promise<void>
}

const ZONES_RULES: Rules<Zones> = {
  model: ["host-managed", "host-aware"], zoneSize: "number", maxOpenZones: "number", maxActiveZones: "number", maxAppendSize: "number",
  writeGranularity: "number", report: "function", check: "function", append: "function", act: "function", resetAll: "function",
}

/** Checks the `zones` of a backing that was passed to the function `who`. @throws TypeError */
export function checkZones(who: string, zones: Zones, { isAsynchronous }: { readonly isAsynchronous: boolean }): void {
  checkMembers(who, "zones of the backing", zones, ZONES_RULES, "Zones")
  const late = findAsync(zones, isAsynchronous ? ["report", "check"] : ["report", "check", "append", "act", "resetAll"])
  if (late !== undefined) throw new TypeError(`${who}: ${late} of the backing's zones is an async function: see the interface Zones`)
  for (const name of ["zoneSize", "writeGranularity"] as const) {
    const bytes = zones[name]
    if (!Number.isInteger(bytes / 512) || bytes <= 0 || bytes > 2 ** 40 || (name === "writeGranularity" && bytes >= 2 ** 32)) {
      throw new TypeError(`${who}: ${name} of the backing's zones is ${bytes}; it must be a multiple of 512 bytes: see the interface Zones`)
    }
  }
  for (const name of ["maxOpenZones", "maxActiveZones", "maxAppendSize"] as const) {
    const value = zones[name]
    if (!Number.isSafeInteger(value) || value < 0) throw new TypeError(`${who}: ${name} of the backing's zones is ${value}`)
  }
}
