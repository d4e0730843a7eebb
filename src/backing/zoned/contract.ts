/**
 * The contract between a block device and a zoned disk behind it: a disk of zones, most of which are written from their start on and reset
 * as a whole ([VIRTIO] 5.2, VIRTIO_BLK_F_ZONED). A zoned disk is a `VirtioBacking` with `zones`. Offsets and lengths are bytes.
 */
import { checkMembers, findAsync, type Rules } from "../../options.ts"

/** What a zone takes: writes anywhere, writes at its write pointer only, or both. */
export type ZoneType = "conventional" | "sequential-required" | "sequential-preferred"

/** "none": of conventional zones, which have no write pointer. Only sequential zones have the other states. */
export type ZoneState = "none" | "empty" | "implicitly-open" | "explicitly-open" | "closed" | "full" | "read-only" | "offline"

/** One zone of a disk, as it is now. Places and lengths in bytes. [VIRTIO] 5.2.6 */
export interface Zone {
  readonly type: ZoneType
  readonly state: ZoneState
  readonly start: number
  /** Bytes from the start on that can be written: `zoneSize` or fewer. */
  readonly capacity: number
  /** Where the next write goes. It says nothing of conventional zones, nor of those that are full, read-only or offline. */
  readonly writePointer: number
}

/** What changes the state of a sequential zone. [VIRTIO] 5.2.6 */
export type ZoneAction = "open" | "close" | "finish" | "reset"

/**
 * What a zoned disk can do beside reading and writing. `pread` and `pwrite` of such a disk keep the rules of its zones. What breaks them
 * fails with a `BackingError` whose code begins with "zone-", and changes nothing. Methods may return promises where the disk is
 * `asynchronous`.
 */
export interface Zones {
  /** "host-managed": a driver has to know zones, and there is no discarding. "host-aware": sequential zones take any write. */
  readonly model: "host-managed" | "host-aware"
  /** Of every zone but the last, which may be shorter. A multiple of 512. */
  readonly zoneSize: number
  /** Most zones that are open, and that are open or closed, at a time. 0: any number. */
  readonly maxOpenZones: number
  readonly maxActiveZones: number
  /** Most bytes of one `append`: 0 where there is none. A device lets guests append 1 MiB at most. */
  readonly maxAppendSize: number
  /** Bytes: writes to sequential zones begin and end at multiples of it. A multiple of 512. */
  readonly writeGranularity: number
  /** The zone that holds `offset`, which is inside the disk, and those behind it, `count` at most. */
  report(offset: number, count: number): readonly Zone[]
  /** Whether the zones permit one read, or write, of the range as it is: a device asks before it cuts a long one. @throws BackingError */
  check(kind: "read" | "write", offset: number, length: number): void
  /**
   * Stores `buffers` at the write pointer of the zone that begins at `start`. Returns the offset where they are. One that fails has moved
   * no write pointer and is made again when a stopped disk goes on, unless its error says `mayBeDone`: then the guest is told of it.
   */
  append(buffers: readonly Uint8Array[], start: number): number | Promise<number>
  /** Does it to the zone that begins at `start`. */
  act(action: ZoneAction, start: number): void | Promise<void>
  /** Empties every sequential zone, those that are read-only or offline excepted. */
  resetAll(): void | Promise<void>
}

const ZONES_RULES: Rules<Zones> = {
  model: ["host-managed", "host-aware"], zoneSize: "number", maxOpenZones: "number", maxActiveZones: "number", maxAppendSize: "number",
  writeGranularity: "number", report: "function", check: "function", append: "function", act: "function", resetAll: "function",
}

/** Checks the `zones` of a backing that somebody hands to `who`. @throws TypeError */
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
