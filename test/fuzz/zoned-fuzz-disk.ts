/**
 * A zoned disk for the ring fuzzers, and its twin, which is told without any device what each request must do. What the rules of zones are
 * is shown by test/backing/zoned; here it is the way of their requests, through rings and back.
 */
import { BackingError } from "../../src/backing/backing.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { type ZonedDisk, zonedDisk } from "../../src/backing/zoned/zoned-disk.ts"
import { F, INVALID_CMD, IOERR, OK, T, UNALIGNED_WP, UNSUPP, ZONE } from "../harness/words.ts"
import type { Rng } from "../support/rng.ts"
import { type FuzzDisk, type FuzzRequest, judge, type Negotiated, type Outcome, SECTORS } from "./ring-requests.ts"

const S = 512
const ZONE_SECTORS = 8
const MOST_APPENDED = 3
const NOTHING = new Uint8Array(0)
/** ZONE_OPEN_RESOURCE, ZONE_ACTIVE_RESOURCE: [VIRTIO] 5.2.6. */
const STATUS: Readonly<Record<string, number>> = {
  "zone-invalid": INVALID_CMD, "zone-unaligned": UNALIGNED_WP, "zone-open-limit": 5, "zone-active-limit": 6,
}
/** z_type and z_state: [VIRTIO] 5.2.6. */
const TYPES: Readonly<Record<string, number>> = { conventional: 1, "sequential-required": 2, "sequential-preferred": 3 }
const STATES: Readonly<Record<string, number>> = {
  none: 0, empty: 1, "implicitly-open": 2, "explicitly-open": 3, closed: 4, "read-only": 13, full: 14, offline: 15,
}
const ACTIONS = new Map([[ZONE.OPEN, "open"], [ZONE.CLOSE, "close"], [ZONE.FINISH, "finish"], [ZONE.RESET, "reset"]] as const)

/** 12 zones, of which two are conventional, three may be open, and four open or closed. */
function disk(data: MemoryBacking): ZonedDisk {
  return zonedDisk(data, {
    zoneSize: S * ZONE_SECTORS, zoneCapacity: S * (ZONE_SECTORS - 2), conventionalZones: 2, maxOpenZones: 3, maxActiveZones: 4,
    maxAppendSize: S * MOST_APPENDED,
  })
}

export class ZonedFuzzDisk implements FuzzDisk {
  readonly features = [F.ZONED]
  readonly #data = new MemoryBacking({ size: S * SECTORS })
  readonly #twinData = new MemoryBacking({ size: S * SECTORS })
  readonly backing = disk(this.#data)
  readonly #twin = disk(this.#twinData)

  sound(rng: Rng): FuzzRequest {
    const type = rng.pick([T.IN, T.OUT, T.OUT, T.OUT, T.FLUSH, ZONE.APPEND, ZONE.APPEND, ZONE.REPORT, ...ACTIONS.keys(), ZONE.RESET_ALL])
    const start = ZONE_SECTORS * rng.below(SECTORS / ZONE_SECTORS)
    const count = rng.between(0, 3)
    const base = { type, sector: BigInt(start), reserved: 0, out: NOTHING, in: 0 }
    const pointer = (this.#twin.zones.report(S * start, 1)[0]?.writePointer ?? 0) / S
    if (type === T.IN) return { ...base, sector: BigInt(rng.below(SECTORS - count)), in: S * count }
    if (type === T.OUT) {
      return { ...base, sector: BigInt(rng.chance(0.8) ? pointer : rng.below(SECTORS - count)), out: rng.bytes(S * count) }
    }
    if (type === ZONE.APPEND) return { ...base, out: rng.bytes(S * count), in: 8 }
    return type === ZONE.REPORT ? { ...base, sector: BigInt(rng.below(SECTORS)), in: rng.between(64, 400) } : base
  }

  mutate(request: FuzzRequest, rng: Rng): string {
    const mutations: Readonly<Record<string, () => void>> = {
      "zones: another type": () => (request.type = rng.pick([...Object.values(ZONE), 17, 19, 27, T.DISCARD, T.WRITE_ZEROES, rng.u32()])),
      "zones: another sector": () => {
        request.sector = rng.pick([BigInt(rng.below(SECTORS + 4)), BigInt(SECTORS), 1n << 32n, (1n << 55n) + 8n, (1n << 64n) - 8n])
      },
      "zones: other lengths": () => {
        if (request.out.length > 0) request.out = rng.pick([request.out.slice(1), rng.bytes(S * (MOST_APPENDED + 1)), NOTHING])
        else request.in = rng.pick([0, 1, 63, 64, 127, 128, S])
      },
      "zones: no room for the answer": () => (request.in = rng.below(8)),
    }
    const name = rng.pick(Object.keys(mutations))
    mutations[name]?.()
    // An answer behind other writable bytes: test/virtio/blk/zones.test.ts.
    if (request.type === ZONE.APPEND && request.in > 8) request.in = 8
    return name
  }

  judge(request: FuzzRequest, negotiated: Negotiated): Outcome {
    const { type, out } = request
    const refuse = (status: number): Outcome => ({ status, data: NOTHING })
    const offset = Number(request.sector) * S
    const isInside = request.sector < BigInt(SECTORS)
    if (type === T.IN || type === T.OUT) {
      const length = type === T.IN ? request.in : out.length
      if (length % S !== 0 || request.sector + BigInt(length / S) > BigInt(SECTORS)) return refuse(IOERR)
      const data = new Uint8Array(type === T.IN ? length : 0)
      const act = () => (type === T.IN ? this.#twin.pread(data, offset) : this.#twin.pwrite(out, offset))
      const status = length === 0 ? OK : statusOf(act)
      return status === OK ? { status, data } : refuse(status)
    }
    if (type === ZONE.REPORT) return isInside && request.in >= 64 ? { status: OK, data: this.#report(request) } : refuse(INVALID_CMD)
    if (type === ZONE.RESET_ALL) return refuse(statusOf(() => this.#twin.zones.resetAll()))
    if (type === ZONE.APPEND && (request.in < 8 || out.length % S !== 0)) return refuse(IOERR)
    if (type === ZONE.APPEND && out.length > S * MOST_APPENDED) return refuse(INVALID_CMD)
    const action = [...ACTIONS].find(([one]) => one === type)?.[1]
    if (type !== ZONE.APPEND && action === undefined) {
      return type === T.FLUSH || type === T.GET_ID ? judge(request, NOTHING, negotiated) : refuse(UNSUPP)
    }
    if (!isInside || offset % (S * ZONE_SECTORS) !== 0) return refuse(INVALID_CMD)
    if (action !== undefined) return refuse(statusOf(() => this.#twin.zones.act(action, offset)))
    const data = new DataView(new ArrayBuffer(8))
    const status = statusOf(() => data.setBigUint64(0, BigInt(Number(this.#twin.zones.append([out], offset)) / S), true))
    return status === OK ? { status, data: new Uint8Array(data.buffer) } : refuse(status)
  }

  problem(): string | undefined {
    const [zones, expected] = [this.backing, this.#twin].map((one) => JSON.stringify(one.zones.report(0, SECTORS)))
    if (zones !== expected) return `the zones are ${zones}, not ${expected}`
    const [bytes, others] = [this.#data, this.#twinData].map((one) => {
      const whole = new Uint8Array(S * SECTORS)
      one.pread(whole, 0)
      return whole
    })
    return Buffer.compare(bytes ?? NOTHING, others ?? NOTHING) === 0 ? undefined : "the zones hold other bytes"
  }

  takeAsItIs(): void {
    const whole = new Uint8Array(S * SECTORS)
    this.#data.pread(whole, 0)
    this.#twinData.pwrite(whole, 0)
    for (const { zones } of [this.backing, this.#twin]) zones.resetAll()
  }

  /** The bytes of a report with room for whole zones only. */
  #report({ sector, in: room }: FuzzRequest): Uint8Array {
    const count = Math.floor((room - 64) / 64)
    const zones = count === 0 ? [] : this.#twin.zones.report(Number(sector) * S, count)
    const view = new DataView(new ArrayBuffer(64 + 64 * zones.length))
    view.setBigUint64(0, BigInt(zones.length), true)
    for (const [index, { capacity, start, writePointer, type, state }] of zones.entries()) {
      const at = 64 + 64 * index
      for (const [word, bytes] of [capacity, start, writePointer].entries()) view.setBigUint64(at + 8 * word, BigInt(bytes / S), true)
      view.setUint8(at + 24, TYPES[type] ?? 0xff)
      view.setUint8(at + 25, STATES[state] ?? 0xff)
    }
    return new Uint8Array(view.buffer)
  }
}

function statusOf(act: () => unknown): number {
  try {
    act()
    return OK
  } catch (error) {
    if (error instanceof BackingError) return STATUS[error.code] ?? IOERR
    throw error
  }
}
