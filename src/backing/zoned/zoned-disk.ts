/**
 * ZonedDisk: a host-managed zoned disk over any synchronous disk. It enforces the rules of zones, and unwritten sectors read as zeroes.
 * With a `ZoneStore`, write pointers outlive the process.
 */
import { BackingError, checkBacking, checkRange, type DiskVersion, totalLength, type VirtioBacking } from "../backing.ts"
import { transfer } from "../bytes/buffers.ts"
import type { Zone, ZoneAction, Zones } from "./contract.ts"
import { type ZoneOptions, zoneShape } from "./shape.ts"
import { type StoredZone, ZoneTable } from "./zone-table.ts"

/** Stores zones durably. */
export interface ZoneStore {
  /** Makes the zones durable before it returns. @throws BackingError */
  save(zones: Iterable<readonly [index: number, zone: StoredZone]>): void
  close(): void
}

const EMPTY: StoredZone = { written: 0, condition: "normal" }
/** Maximum of zones in a report. A driver asks again for the rest. */
const REPORT_ZONES = 4096

/**
 * Makes a zoned disk of `data`, which it owns, with all zones empty. Write pointers are only in memory; `createZonedImage` makes a disk
 * that stores them.
 * @throws TypeError for anything but a disk, for one that is asynchronous or zoned itself, and for wrong options
 * @throws BackingError `invalid-argument` for wrong zones
 */
export function zonedDisk(data: VirtioBacking, options: ZoneOptions): ZonedDisk {
  checkBacking("zonedDisk", data)
  if (data.asynchronous === true) throw new TypeError("zonedDisk: the disk answers later (asynchronous: true); it must answer at once")
  if (data.zones !== undefined) throw new TypeError("zonedDisk: the disk is zoned already")
  return new ZonedDisk(data, new ZoneTable(zoneShape("zonedDisk", data.size, options)))
}

/**
 * A zoned disk. A write moves a write pointer in memory, and `flush` stores it. A reset or finish of a zone is stored before it completes,
 * so that after a crash no old write pointer covers new data.
 */
export class ZonedDisk implements VirtioBacking {
  readonly readOnly: boolean
  readonly zones: Zones
  /** If the data disk can erase: erases whole sequential zones, which it resets. */
  readonly secureErase?: (offset: number, length: number) => void
  readonly secureEraseAlignment: number
  readonly #data: VirtioBacking
  readonly #table: ZoneTable
  readonly #store: ZoneStore | undefined
  /** Zones that have changed since the last `save`. */
  readonly #changed = new Set<number>()

  /** `data` has the size of the table's shape, and answers at once. */
  constructor(data: VirtioBacking, table: ZoneTable, store?: ZoneStore) {
    this.#data = data
    this.#table = table
    this.#store = store
    this.readOnly = data.readOnly
    this.secureEraseAlignment = table.shape.zoneSize
    if (data.secureErase !== undefined) this.secureErase = (offset, length) => this.#secureErase(offset, length)
    const { zoneSize, maxOpenZones, maxActiveZones, maxAppendSize, writeGranularity } = table.shape
    this.zones = {
      model: "host-managed", zoneSize, maxOpenZones, maxActiveZones, maxAppendSize, writeGranularity,
      report: (offset, count) => this.#report(offset, count),
      check: (kind, offset, length) => this.#check(kind, offset, length),
      append: (buffers, start) => this.#append(buffers, start),
      act: (action, start) => this.#act(action, start),
      resetAll: () => this.#resetAll(),
    }
  }

  get size(): number {
    return this.#table.shape.size
  }

  /** The data disk's version. */
  version(): DiskVersion | undefined {
    return this.#data.version?.()
  }

  /** A call for a whole zone is the fastest. */
  get zeroesAtOnce(): number {
    return this.#data.zeroesAtOnce ?? this.secureEraseAlignment
  }

  pread(buffer: Uint8Array, offset: number): void {
    this.#check("read", offset, buffer.length)
    this.#read(buffer, offset)
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    this.#check("read", offset, totalLength(buffers))
    let at = offset
    for (const buffer of buffers) {
      this.#read(buffer, at)
      at += buffer.length
    }
  }

  pwrite(buffer: Uint8Array, offset: number): void {
    this.pwritev([buffer], offset)
  }

  pwritev(buffers: readonly Uint8Array[], offset: number): void {
    const length = totalLength(buffers)
    this.#check("write", offset, length)
    this.#write(buffers, offset)
    const index = this.#table.indexOf(offset)
    if (length > 0 && this.#table.type(index) !== "conventional") this.#wrote(index, length)
  }

  /** Flushes the data first: a stored write pointer must not be ahead of them. */
  flush(): void {
    void this.#data.flush?.()
    this.#save([...this.#changed].map((index) => [index, this.#table.stored(index)]))
  }

  /** Makes a sequential zone permanently read-only or offline, like a drive with a failing medium. @throws BackingError */
  failZone(offset: number, state: "read-only" | "offline"): void {
    checkRange(this.size, offset, 1)
    const index = this.#table.indexOf(offset)
    this.#table.fail(index, state)
    this.#changed.add(index)
  }

  close(): void {
    try {
      if (!this.readOnly) this.flush()
    } finally {
      try {
        void this.#data.close()
      } finally {
        this.#store?.close()
      }
    }
  }

  // --- Reading and writing ---

  #check(kind: "read" | "write", offset: number, length: number): void {
    checkRange(this.size, offset, length)
    if (kind === "write") this.#checkWritable()
    if (length === 0) return
    const table = this.#table
    const first = table.indexOf(offset)
    const last = table.indexOf(offset + length - 1)
    // Conventional zones come first, so if the last zone of the range is conventional, all are.
    if (table.type(last) === "conventional") return
    if (first !== last) {
      throw new BackingError("zone-invalid", `bytes ${offset} to ${offset + length} are in more than one zone`, { offset })
    }
    if (kind === "write") table.checkWrite(first, offset, length)
    else table.checkReadable(first)
  }

  /** Reads the written part of a zone; the rest is zeroes. */
  #read(buffer: Uint8Array, offset: number): void {
    const table = this.#table
    const index = table.indexOf(offset)
    const left = table.type(index) === "conventional" ? buffer.length : table.start(index) + table.written(index) - offset
    const length = Math.max(Math.min(left, buffer.length), 0)
    if (length > 0) void this.#data.pread(length === buffer.length ? buffer : buffer.subarray(0, length), offset)
    if (length < buffer.length) buffer.fill(0, length)
  }

  #write(buffers: readonly Uint8Array[], offset: number): void {
    if (buffers.length > 0) transfer(this.#data, "pwrite", buffers, offset)
  }

  #wrote(index: number, length: number): void {
    this.#table.wrote(index, length)
    this.#changed.add(index)
  }

  #append(buffers: readonly Uint8Array[], start: number): number {
    this.#checkWritable()
    const table = this.#table
    const index = this.#zoneAt(start)
    if (table.type(index) === "conventional") throw new BackingError("zone-invalid", `zone ${index} is conventional`, { offset: start })
    const length = totalLength(buffers)
    const offset = start + table.written(index)
    if (length > table.shape.maxAppendSize) {
      throw new BackingError("zone-invalid", `${length} bytes are too many for one append (${table.shape.maxAppendSize})`, {
        offset: start,
      })
    }
    table.checkAppend(index, length)
    if (length === 0) return offset
    this.#write(buffers, offset)
    this.#wrote(index, length)
    return offset
  }

  // --- Zone management ---

  #report(offset: number, count: number): Zone[] {
    checkRange(this.size, offset, 1)
    const first = this.#table.indexOf(offset)
    const length = Math.min(count, REPORT_ZONES, this.#table.count - first)
    return Array.from({ length }, (_, index) => this.#table.zone(first + index))
  }

  #act(action: ZoneAction, start: number): void {
    this.#checkWritable()
    const table = this.#table
    const index = this.#zoneAt(start)
    switch (action) {
      case "open":
        return table.open(index)
      case "close":
        return table.close(index)
      case "finish":
        return this.#finish(index)
      case "reset":
        if (table.checkReset(index) || this.#changed.has(index)) this.#reset([index])
    }
  }

  #finish(index: number): void {
    const finished = this.#table.finished(index)
    if (finished === undefined) return
    if (this.#store !== undefined) void this.#data.flush?.()
    this.#save([[index, finished]])
    this.#table.finish(index)
  }

  #resetAll(): void {
    this.#checkWritable()
    const table = this.#table
    const resettable = Array.from({ length: table.count }, (_, index) => index).filter((index) => {
      const state = table.state(index)
      return state !== "none" && state !== "read-only" && state !== "offline" && (state !== "empty" || this.#changed.has(index))
    })
    this.#reset(resettable)
  }

  #reset(indices: readonly number[]): void {
    this.#save(indices.map((index) => [index, EMPTY]))
    for (const index of indices) this.#table.reset(index)
  }

  /** Erases zones: a reset that also erases the data. */
  #secureErase(offset: number, length: number): void {
    checkRange(this.size, offset, length)
    this.#checkWritable()
    const { zoneSize, size } = this.#table.shape
    const end = offset + length
    if (offset % zoneSize !== 0 || (end % zoneSize !== 0 && end !== size)) {
      throw new BackingError("invalid-argument", `bytes ${offset} to ${end} are not whole zones of ${zoneSize}`, { offset })
    }
    const indices = Array.from({ length: Math.ceil(length / zoneSize) }, (_, index) => this.#table.indexOf(offset) + index)
    for (const index of indices) this.#table.checkReset(index)
    void this.#data.secureErase?.(offset, length)
    this.#reset(indices)
  }

  /** The zone that begins at byte `start`. @throws BackingError */
  #zoneAt(start: number): number {
    const { zoneSize } = this.#table.shape
    if (start % zoneSize === 0 && start >= 0 && start < this.size) return start / zoneSize
    throw new BackingError("zone-invalid", `no zone begins at byte ${start}`, { offset: start })
  }

  #save(zones: readonly (readonly [number, StoredZone])[]): void {
    if (zones.length === 0) return
    // The next call repairs the effects of a failed one.
    for (const [index] of zones) this.#changed.add(index)
    this.#store?.save(zones)
    for (const [index] of zones) this.#changed.delete(index)
  }

  #checkWritable(): void {
    if (this.readOnly) throw new BackingError("read-only", "the disk is read-only")
  }
}
