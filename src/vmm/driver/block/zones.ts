/** BlockZones: what a driver asks of a zoned disk ([VIRTIO] 5.2.6). */
import { checkBytes } from "../../../options.ts"
import { DriverError } from "../errors.ts"
import { includesFeature } from "../virtio/features.ts"
import type { BlockEngine } from "./engine.ts"
import { type BlockSender, checkRequest, NO_OPTIONS, REQUEST_RULES, type RequestOptions } from "./sender.ts"
import { BLK_APPEND_SECTOR_SIZE, BLK_ZONE_REPORT, BLK_ZONE_STATES, BLK_ZONE_TYPES, type BlockZoneState } from "./spec.ts"

/** A zone as the device reports it. In sectors. */
export interface BlockZone {
  readonly type: "CONV" | "SWR" | "SWP"
  readonly state: BlockZoneState
  readonly start: number
  /** What can be written, from the start on. */
  readonly capacity: number
  /** It says nothing of zones that are NOT_WP, RDONLY, FULL or OFFLINE. */
  readonly writePointer: number
}

/** Zones that are asked for at a time. */
const ZONES_AT_ONCE = 256

/**
 * The requests of zoned disks. A sector names the zone that begins there. All reject with `BlockRequestError` when the device reports a
 * failure, and with `DriverError` ("unsupported") without ZONED.
 */
export class BlockZones {
  readonly #engine: BlockEngine
  readonly #sender: BlockSender

  constructor(engine: BlockEngine, sender: BlockSender) {
    this.#engine = engine
    this.#sender = sender
  }

  /** The zone that holds `sector`, and those behind it, `count` at most. Default: all. Rejects with `DriverError` ("protocol"). */
  async report(sector = 0, count = Number.POSITIVE_INFINITY, options: RequestOptions = NO_OPTIONS): Promise<BlockZone[]> {
    this.#check("report", options)
    const { capacity } = this.#engine.identity
    const zones: BlockZone[] = []
    for (let at = sector; zones.length < count && at < capacity; ) {
      const wanted = Math.min(count - zones.length, ZONES_AT_ONCE)
      const dataIn = BLK_ZONE_REPORT.HEADER_SIZE + BLK_ZONE_REPORT.ZONE_SIZE * wanted
      const reply = await this.#sender.checked("ZONE_REPORT", { ...options, sector: at, dataIn }, BLK_ZONE_REPORT.HEADER_SIZE)
      const part = decodeReport(this.#engine.virtio.ram.numbers(reply), wanted)
      const last = part.at(-1)
      if (last === undefined) break
      const { zoneSectors = 0 } = this.#engine.identity.zoned ?? {}
      if (zoneSectors === 0 || last.start < at - zoneSectors) {
        throw new DriverError("protocol", `the device was asked for zones from sector ${at} on, and its last one starts at ${last.start}`)
      }
      zones.push(...part)
      at = last.start + zoneSectors
    }
    return zones
  }

  /** Writes `data`, whole sectors, at the write pointer of a zone. Resolves with the sector where they are. */
  async append(sector: number, data: Uint8Array, options: RequestOptions = NO_OPTIONS): Promise<number> {
    this.#check("append", options)
    checkBytes("BlockZones.append", "data", data)
    const reply = await this.#sender.checked("ZONE_APPEND", { ...options, sector, dataOut: data, dataIn: BLK_APPEND_SECTOR_SIZE })
    return u64(this.#engine.virtio.ram.numbers(reply), 0)
  }

  async open(sector: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    await this.#manage("ZONE_OPEN", sector, options)
  }

  async close(sector: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    await this.#manage("ZONE_CLOSE", sector, options)
  }

  async finish(sector: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    await this.#manage("ZONE_FINISH", sector, options)
  }

  async reset(sector: number, options: RequestOptions = NO_OPTIONS): Promise<void> {
    await this.#manage("ZONE_RESET", sector, options)
  }

  async resetAll(options: RequestOptions = NO_OPTIONS): Promise<void> {
    await this.#manage("ZONE_RESET_ALL", 0, options)
  }

  async #manage(
    name: "ZONE_OPEN" | "ZONE_CLOSE" | "ZONE_FINISH" | "ZONE_RESET" | "ZONE_RESET_ALL", sector: number, options: RequestOptions,
  ): Promise<void> {
    this.#check(name, options)
    await this.#sender.checked(name, { ...options, sector })
  }

  #check(name: string, options: RequestOptions): void {
    checkRequest(`BlockZones.${name}`, options, REQUEST_RULES)
    if (!includesFeature(this.#engine.virtio.features, "ZONED")) throw new DriverError("unsupported", "ZONED is not negotiated")
  }
}

/** @throws DriverError ("protocol") for what a device must not report */
function decodeReport(reply: DataView, most: number): BlockZone[] {
  const count = u64(reply, 0)
  if (count > most) throw new DriverError("protocol", `the device reports ${count} zones where there is room for ${most}`)
  return Array.from({ length: count }, (_, index) => {
    const at = BLK_ZONE_REPORT.HEADER_SIZE + BLK_ZONE_REPORT.ZONE_SIZE * index
    const type = named(BLK_ZONE_TYPES, reply.getUint8(at + BLK_ZONE_REPORT.TYPE), "type")
    const state = named(BLK_ZONE_STATES, reply.getUint8(at + BLK_ZONE_REPORT.STATE), "state")
    const number = (offset: number): number => u64(reply, at + offset)
    const [capacity, start] = [number(BLK_ZONE_REPORT.CAPACITY), number(BLK_ZONE_REPORT.START)]
    return { type, state, start, capacity, writePointer: number(BLK_ZONE_REPORT.WRITE_POINTER) }
  })
}

function named<N extends string>(names: ReadonlyMap<number, N>, value: number, what: string): N {
  const name = names.get(value)
  if (name === undefined) throw new DriverError("protocol", `the device reports a zone of the unknown ${what} ${value}`)
  return name
}

function u64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32
}
