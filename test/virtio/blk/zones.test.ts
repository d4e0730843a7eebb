/**
 * Zoned disks: what the device offers, refuses and answers ([VIRTIO] 5.2, VIRTIO_BLK_F_ZONED). Zones of 8 sectors, of which 6 can be
 * written.
 */
import { describe, expect, it } from "vitest"
import { type VirtioBacking, BackingError, type Zones } from "../../../src/backing/backing.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import type { ZoneOptions } from "../../../src/backing/zoned/shape.ts"
import { zonedDisk } from "../../../src/backing/zoned/zoned-disk.ts"
import { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import { settled } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { LegacyGuest, ModernGuest } from "../../harness/registers.ts"
import { pattern, ranges } from "../../harness/requests.ts"
import {
  ACTIVE_RESOURCE, F, INVALID_CMD, IOERR, mask, OK, OPEN_RESOURCE, T, UNALIGNED_WP, UNSUPP, VERSION_1, ZONE,
} from "../../harness/words.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const SEED = seedFromEnvironment(20_261_126)
const FEATURES = [F.ZONED, F.INDIRECT_DESC, F.FLUSH]
const TYPES = Object.entries(ZONE)
const S = 512

function options(more: Partial<ZoneOptions> = {}): ZoneOptions {
  return { zoneSize: 8 * S, zoneCapacity: 6 * S, conventionalZones: 2, ...more }
}

/** A disk of 8 zones, the last one of 4 sectors: two conventional ones, then sequential ones. */
function pair(more: Partial<ZoneOptions> = {}, features: readonly number[] = FEATURES) {
  const memory = new MemoryBacking({ size: 60 * S })
  const disk = zonedDisk(memory, options(more))
  return { memory, disk, guest: new RingGuest({ backing: disk, features }) }
}

const write = (guest: RingGuest, sector: number, sectors = 1): number => guest.write(sector, pattern(sector, sectors)).status
const act = (guest: RingGuest, type: number, sector: number): number => guest.run({ type, sector }).status

interface Reported {
  readonly capacity: number
  readonly start: number
  readonly writePointer: number
  readonly type: number
  readonly state: number
}

/** A report of `count` zones, decoded by hand. */
function report(guest: RingGuest, sector: number, count: number): { readonly zones: Reported[]; readonly length: number } {
  const { status, data, length } = guest.run({ type: ZONE.REPORT, sector, in: 64 + 64 * count })
  expect(status).toBe(OK)
  const view = new DataView(data.buffer, data.byteOffset, data.length)
  const u64 = (at: number): number => Number(view.getBigUint64(at, true))
  const zones = Array.from({ length: u64(0) }, (_, index) => {
    const at = 64 + 64 * index
    expect([...data.subarray(at + 26, at + 64)]).toEqual(Array.from({ length: 38 }, () => 0))
    return { capacity: u64(at), start: u64(at + 8), writePointer: u64(at + 16), type: data[at + 24] ?? -1, state: data[at + 25] ?? -1 }
  })
  return { zones, length }
}

const stateOf = (guest: RingGuest, sector: number): number => report(guest, sector, 1).zones[0]?.state ?? -1

/** An append by hand. */
function append(guest: RingGuest, sector: number, sectors: number, room = 8) {
  const { status, length, data } = guest.run({ type: ZONE.APPEND, sector, out: pattern(100 + sector, sectors), in: room })
  const at = data.length >= 8 ? new DataView(data.buffer, data.byteOffset + data.length - 8, 8).getBigUint64(0, true) : undefined
  return { status, length, at }
}

describe("zoned disks as drivers find them", () => {
  it("ZN-01 without bit 17 every request for zones is UNSUPP, on any disk", () => {
    const ordinary = new RingGuest({ backing: new MemoryBacking({ size: 60 * S }) })
    const legacy = new RingGuest({ backing: pair().disk, legacy: true, features: [F.ZONED] })
    for (const guest of [ordinary, legacy]) {
      expect(guest.offers(F.ZONED)).toBe(false)
      for (const [name, type] of TYPES) expect([name, guest.run({ type, out: pattern(0, 1), in: 128 }).status]).toEqual([name, UNSUPP])
    }
  })

  it("ZN-02 FT-28 a host-managed disk offers no DISCARD, and refuses FEATURES_OK without bit 17", () => {
    const machine = new Machine({ ramSize: 1 << 20 })
    const guest = new ModernGuest(machine, machine.attachDisk(Object.assign(pair().disk, { discard: () => {} })).slot)
    expect(guest.offered & mask(F.ZONED, F.DISCARD, F.WRITE_ZEROES)).toBe(mask(F.ZONED))
    expect(guest.negotiate(VERSION_1)).toBe(false)
    expect(guest.status).toBe(0x03)
    expect(guest.negotiate(VERSION_1 | mask(F.ZONED))).toBe(true)
    expect(() => new VirtioBlk(pair().disk, { withoutFeatures: ["ZONED"] })).toThrow("ZONED cannot be left out")
  })

  it("ZN-02 FT-28 legacy drivers see no bit 17 and zero fields, and errors of zones are IOERR", () => {
    const { disk } = pair()
    const machine = new Machine({ ramSize: 1 << 20 })
    const { slot } = machine.attachDisk(disk)
    expect(BigInt(new LegacyGuest(machine, slot).offered) & mask(F.ZONED)).toBe(0n)
    const guest = new RingGuest({ backing: pair().disk, legacy: true, features: [F.ZONED] })
    expect([0x48, 0x4c, 0x50, 0x54, 0x58, 0x5c].map((at) => guest.config(at, 4))).toEqual([0, 0, 0, 0, 0, 0])
    expect([write(guest, 17), write(guest, 16), guest.disk.device.lastError]).toEqual([IOERR, OK, expect.any(BackingError)])
  })

  it("ZN-02 a host-aware disk may be used without bit 17: the fields are zero until a reset", () => {
    const { disk } = pair()
    const zones: Zones = { ...disk.zones, model: "host-aware" }
    const backing = Object.assign(disk, { zones, discard: () => {} })
    const guest = new RingGuest({ backing, features: [F.DISCARD] })
    expect([guest.status, guest.offers(F.DISCARD)]).toEqual([0x0f, true])
    expect([0x48, 0x54, 0x58, 0x5c].map((at) => guest.config(at, 4))).toEqual([0, 0, 0, 0])
    expect(act(guest, ZONE.RESET_ALL, 0)).toBe(UNSUPP)
    guest.start([F.ZONED])
    expect([0x48, 0x54, 0x58, 0x5c].map((at) => guest.config(at, 4))).toEqual([8, 6, 512, 2])
    const without = new RingGuest({ backing, disk: { withoutFeatures: ["ZONED"] } })
    expect([without.offers(F.ZONED), without.config(0x48, 4)]).toEqual([false, 0])
  })

  it("BC-07 BC-08 the fields have the specified units, before and after FEATURES_OK", () => {
    const disk = zonedDisk(new MemoryBacking({ size: 2 ** 30 }), {
      zoneSize: 64 << 20, maxOpenZones: 14, maxActiveZones: 28, maxAppendSize: 256 << 10, writeGranularity: 4096,
    })
    const machine = new Machine({ ramSize: 1 << 20 })
    const before = new ModernGuest(machine, machine.attachDisk(disk, { blockSize: 4096 }).slot)
    const guest = new RingGuest({ backing: disk, features: FEATURES, disk: { blockSize: 4096 } })
    for (const device of [before.device, guest.registers.device]) {
      expect([0x48, 0x4c, 0x50, 0x54, 0x58, 0x5c].map((at) => device.read(at, 4))).toEqual([131_072, 14, 28, 512, 4096, 1])
    }
  })
})

describe("a report", () => {
  it("ZN-03 ZN-04 a report has a header, and 64 bytes for each zone: capacity, start, write pointer, type and state", () => {
    const { guest } = pair()
    expect([write(guest, 16, 2), write(guest, 24, 6), act(guest, ZONE.OPEN, 32)]).toEqual([OK, OK, OK])
    expect([write(guest, 40, 1), act(guest, ZONE.CLOSE, 40)]).toEqual([OK, OK])
    const { zones, length } = report(guest, 0, 9)
    // The data end behind the eighth zone, so the status is not told to follow.
    expect(length).toBe(64 + 8 * 64)
    expect(zones.map(({ type, state, start, capacity }) => [type, state, start, capacity])).toEqual([
      [1, 0, 0, 8], [1, 0, 8, 8], [2, 2, 16, 6], [2, 14, 24, 6], [2, 3, 32, 6], [2, 4, 40, 6], [2, 1, 48, 6], [2, 1, 56, 4],
    ])
    expect([2, 4, 5, 6].map((zone) => zones[zone]?.writePointer)).toEqual([18, 32, 41, 48])
  })

  it("ZN-04 a report shows read-only and offline zones as 13 and 15", () => {
    const { disk, guest } = pair()
    write(guest, 16)
    disk.failZone(16 * S, "read-only")
    disk.failZone(24 * S, "offline")
    expect([stateOf(guest, 16), stateOf(guest, 24)]).toEqual([13, 15])
    expect([guest.read(16, 1), guest.read(24, 1)]).toMatchObject([{ status: OK, data: pattern(16, 1) }, { status: INVALID_CMD }])
  })

  it("ZN-03 a report has as many whole zones as fit, from the one of the sector on; a sector beyond the end is refused", () => {
    const { guest } = pair()
    const { status, length, data } = guest.run({ type: ZONE.REPORT, sector: 21, in: 64 + 64 * 2 + 32 })
    expect([status, length, data[0]]).toEqual([OK, 64 + 128, 2])
    expect([data[64 + 8], data[128 + 8]]).toEqual([16, 24])
    expect(data.subarray(64 + 128).every((byte) => byte === 0xa5)).toBe(true)
    expect(guest.run({ type: ZONE.REPORT, in: 64 })).toMatchObject({ status: OK, length: 65, data: new Uint8Array(64) })
    expect(guest.run({ type: ZONE.REPORT, in: 63 })).toMatchObject({ status: INVALID_CMD, length: 0 })
    for (const sector of [60, 2 ** 40, 2n ** 64n - 1n]) {
      expect(guest.run({ type: ZONE.REPORT, sector, in: 128 })).toMatchObject({ status: INVALID_CMD, length: 0 })
    }
    expect(guest.disk.device.statistics.zoneReport).toMatchObject({ requests: 6, errors: 4 })
  })

  it("ZN-03 a report of thousands of zones is bounded, and the driver asks again for the rest", () => {
    const disk = zonedDisk(new MemoryBacking({ size: 4096 * S }), { zoneSize: S })
    const guest = new RingGuest({ backing: disk, features: FEATURES })
    expect(report(guest, 0, 4096).zones.length).toBe(1024)
    expect(report(guest, 4095, 10).zones).toMatchObject([{ start: 4095 }])
  })
})

describe("states", () => {
  const EMPTY = 1, IOPEN = 2, EOPEN = 3, CLOSED = 4, RDONLY = 13, FULL = 14, OFFLINE = 15
  /** How to bring the zone at sector 16 into each state; those with a "+" have something written. */
  const MAKE: Readonly<Record<string, readonly [state: number, make: (guest: RingGuest) => void]>> = {
    EMPTY: [EMPTY, () => {}],
    IOPEN: [IOPEN, (guest) => void write(guest, 16)],
    EOPEN: [EOPEN, (guest) => void act(guest, ZONE.OPEN, 16)],
    "EOPEN+": [EOPEN, (guest) => void [act(guest, ZONE.OPEN, 16), write(guest, 16)]],
    CLOSED: [CLOSED, (guest) => void [write(guest, 16), act(guest, ZONE.CLOSE, 16)]],
    FULL: [FULL, (guest) => void write(guest, 16, 6)],
    "FULL by FINISH": [FULL, (guest) => void [write(guest, 16), act(guest, ZONE.FINISH, 16)]],
  }
  const COMMANDS = ["OPEN", "CLOSE", "FINISH", "RESET"] as const
  /** What [VIRTIO] 5.2.6 says of each command: status and state. */
  const MATRIX: Readonly<Record<string, readonly (readonly [number, number])[]>> = {
    EMPTY: [[OK, EOPEN], [INVALID_CMD, EMPTY], [OK, FULL], [OK, EMPTY]],
    IOPEN: [[OK, EOPEN], [OK, CLOSED], [OK, FULL], [OK, EMPTY]],
    EOPEN: [[OK, EOPEN], [OK, EMPTY], [OK, FULL], [OK, EMPTY]],
    "EOPEN+": [[OK, EOPEN], [OK, CLOSED], [OK, FULL], [OK, EMPTY]],
    CLOSED: [[OK, EOPEN], [OK, CLOSED], [OK, FULL], [OK, EMPTY]],
    FULL: [[INVALID_CMD, FULL], [INVALID_CMD, FULL], [OK, FULL], [OK, EMPTY]],
    "FULL by FINISH": [[INVALID_CMD, FULL], [INVALID_CMD, FULL], [OK, FULL], [OK, EMPTY]],
  }

  it.each(Object.entries(MAKE))("ZN-05 every command to a zone that is %s has the specified result", (name, [state, make]) => {
    for (const [index, command] of COMMANDS.entries()) {
      const { guest } = pair()
      make(guest)
      expect(stateOf(guest, 16)).toBe(state)
      const [status, after] = MATRIX[name]?.[index] ?? []
      expect([command, act(guest, ZONE[command], 16), stateOf(guest, 16)]).toEqual([command, status, after])
    }
  })

  it("ZN-05 conventional, read-only and offline zones take no command, and a command must name the start of a zone", () => {
    const { disk, guest } = pair()
    disk.failZone(16 * S, "read-only")
    disk.failZone(24 * S, "offline")
    for (const command of COMMANDS) {
      for (const sector of [0, 8, 16, 24, 33, 39, 60, 64, 2 ** 60, 2n ** 64n - 8n]) {
        const status = guest.run({ type: ZONE[command], sector }).status
        expect([command, sector, status]).toEqual([command, sector, INVALID_CMD])
      }
    }
    expect([stateOf(guest, 16), stateOf(guest, 24), stateOf(guest, 32)]).toEqual([RDONLY, OFFLINE, EMPTY])
  })

  it("ZN-05 RESET_ALL empties every zone, whatever its sector, and the zones read as zeroes", () => {
    const { disk, guest } = pair({ conventionalZones: 1 })
    expect([
      write(guest, 0, 8),
      write(guest, 8, 6),
      write(guest, 16, 2),
      act(guest, ZONE.OPEN, 24),
      write(guest, 32, 1),
    ]).toEqual([OK, OK, OK, OK, OK])
    disk.failZone(32 * S, "read-only")
    expect(act(guest, ZONE.RESET_ALL, 777)).toBe(OK)
    expect(report(guest, 0, 8).zones.map(({ state }) => state)).toEqual([0, EMPTY, EMPTY, EMPTY, RDONLY, EMPTY, EMPTY, EMPTY])
    expect(guest.read(0, 8).data).toEqual(pattern(0, 8))
    expect(guest.read(8, 8).data.every((byte) => byte === 0)).toBe(true)
    expect(guest.read(32, 1).data).toEqual(pattern(32, 1))
  })
})

describe("limits", () => {
  it("ZN-06 too many active zones give 6, too many open ones 5, and both 6; an implicitly open zone makes room", () => {
    const { guest } = pair({ maxOpenZones: 1, maxActiveZones: 2 })
    expect(write(guest, 16)).toBe(OK)
    expect(write(guest, 24)).toBe(OK)
    expect([stateOf(guest, 16), stateOf(guest, 24)]).toEqual([4, 2])
    expect([
      write(guest, 32), act(guest, ZONE.OPEN, 32), append(guest, 32, 1).status,
    ]).toEqual([ACTIVE_RESOURCE, ACTIVE_RESOURCE, ACTIVE_RESOURCE])
    expect(stateOf(guest, 32)).toBe(1)
    expect(act(guest, ZONE.OPEN, 16)).toBe(OK)
    expect([stateOf(guest, 16), stateOf(guest, 24)]).toEqual([3, 4])
    // An open zone that was opened by name is not closed for another.
    expect([
      write(guest, 25), act(guest, ZONE.OPEN, 24), append(guest, 24, 1).status,
    ]).toEqual([OPEN_RESOURCE, OPEN_RESOURCE, OPEN_RESOURCE])
    // Both limits would be exceeded.
    expect(write(guest, 40)).toBe(ACTIVE_RESOURCE)
    expect([write(guest, 17), act(guest, ZONE.FINISH, 16), write(guest, 25), write(guest, 32)]).toEqual([OK, OK, OK, OK])
  })

  it("ZN-06 a limit of 0 means none, and a zone that is closed, finished or reset frees its place", () => {
    const open = pair({ conventionalZones: 0 }).guest
    for (let sector = 0; sector < 60; sector += 8) expect([sector, act(open, ZONE.OPEN, sector)]).toEqual([sector, OK])
    const { guest } = pair({ maxOpenZones: 1, maxActiveZones: 1 })
    for (const end of [
      () => write(guest, 17, 5), () => act(guest, ZONE.FINISH, 16), () => act(guest, ZONE.RESET, 16), () => act(guest, ZONE.RESET_ALL, 0),
    ]) {
      expect([write(guest, 16), write(guest, 24), end(), act(guest, ZONE.OPEN, 24), act(guest, ZONE.CLOSE, 24)]).toEqual([
        OK, ACTIVE_RESOURCE, OK, OK, OK,
      ])
      act(guest, ZONE.RESET_ALL, 0)
    }
  })
})

describe("writes", () => {
  it("ZN-07 a write gives 4 off the write pointer and 3 over the end of the zone, beyond its capacity or in a full one", () => {
    const { guest, memory } = pair()
    expect([write(guest, 17), write(guest, 23), write(guest, 16, 7), write(guest, 16, 9)]).toEqual([
      UNALIGNED_WP, UNALIGNED_WP, INVALID_CMD, INVALID_CMD,
    ])
    expect([write(guest, 16, 3), write(guest, 16), write(guest, 18), write(guest, 20), write(guest, 19, 4)]).toEqual([
      OK, UNALIGNED_WP, UNALIGNED_WP, UNALIGNED_WP, INVALID_CMD,
    ])
    expect([write(guest, 19, 3), write(guest, 22), write(guest, 16)]).toEqual([OK, INVALID_CMD, INVALID_CMD])
    // From a conventional zone into a sequential one.
    expect([write(guest, 15, 2), write(guest, 14, 2), write(guest, 3, 9)]).toEqual([INVALID_CMD, OK, OK])
    const bytes = new Uint8Array(60 * S)
    memory.pread(bytes, 0)
    expect(bytes.subarray(16 * S, 22 * S)).toEqual(pattern(16, 6))
    expect(bytes.subarray(22 * S).every((byte) => byte === 0)).toBe(true)
    expect(guest.disk.device.lastError).toBeUndefined()
  })

  it("ZN-07 a write gives 4 if its length is no multiple of write_granularity", () => {
    const { guest } = pair({ zoneCapacity: 4 * S, zoneSize: 8 * S, writeGranularity: 2 * S })
    expect([write(guest, 16, 1), write(guest, 16, 3), write(guest, 16, 2), append(guest, 16, 1).status]).toEqual([
      UNALIGNED_WP, UNALIGNED_WP, OK, UNALIGNED_WP,
    ])
    expect([write(guest, 18, 2), stateOf(guest, 16)]).toEqual([OK, 14])
  })

  it("ZN-07 writes fail in read-only and offline zones", () => {
    const { disk, guest } = pair()
    disk.failZone(16 * S, "read-only")
    disk.failZone(24 * S, "offline")
    expect(
      [16, 24].flatMap((sector) => [write(guest, sector), append(guest, sector, 1).status]),
    ).toEqual(Array.from({ length: 4 }, () => INVALID_CMD))
  })

  it("ZN-07 neighbours of one kick that are merged are checked each by itself", () => {
    const { guest } = pair()
    const requests = [[16, 2], [18, 4], [24, 1], [25, 2], [32, 3], [36, 1]].map(
      ([sector = 0, sectors = 0]) => guest.place({ type: T.OUT, sector, out: pattern(sector, sectors) }),
    )
    guest.publish(requests.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
    guest.kick()
    expect(guest.takeUsed().length).toBe(6)
    expect(requests.map((placed) => guest.reply(placed, 1).status)).toEqual([OK, OK, OK, OK, OK, UNALIGNED_WP])
    expect(guest.disk.device.statistics.merged).toBeGreaterThan(0)
    expect([guest.read(16, 6).data, guest.read(24, 3).data]).toEqual([pattern(16, 6), pattern(24, 3)])
  })

  it("ZN-07 a request of several slices is checked as a whole: none over the end of a zone is done in part", async () => {
    const zone = 2560
    const disk = zonedDisk(new MemoryBacking({ size: 3 * zone * S }), { zoneSize: zone * S })
    const guest = new RingGuest({ backing: disk, features: FEATURES, machine: { ramSize: 32 << 20 } })
    const out = new Uint8Array((zone + 8) * S).map((_, at) => at % 251)
    expect((await guest.runLong({ type: T.OUT, sector: 0, out })).status).toBe(INVALID_CMD)
    expect(report(guest, 0, 1).zones).toMatchObject([{ state: 1, writePointer: 0 }])
    expect((await guest.runLong({ type: T.OUT, sector: 0, out: out.subarray(0, zone * S) })).status).toBe(OK)
    expect(stateOf(guest, 0)).toBe(14)
    expect((await guest.runLong({ type: T.IN, sector: 8, in: zone * S })).status).toBe(INVALID_CMD)
    const { data } = await guest.runLong({ type: T.IN, sector: 0, in: zone * S })
    expect(Buffer.compare(data, out.subarray(0, zone * S))).toBe(0)
  })

  it("BLK-06 BLK-09 writes of no bytes do nothing; a read-only disk allows only reports and reads", () => {
    const { guest, disk } = pair()
    expect([guest.run({ type: T.OUT, sector: 20 }).status, stateOf(guest, 16)]).toEqual([OK, 1])
    const readOnly = new RingGuest({ backing: disk, features: FEATURES, disk: { readOnly: true } })
    for (const [name, type] of TYPES) {
      const status = readOnly.run({ type, sector: 16, out: pattern(0, 1), in: 128 }).status
      expect([name, status]).toEqual([name, type === ZONE.REPORT ? OK : IOERR])
    }
  })
})

describe("append", () => {
  it("ZN-08 an append returns the sector before the status, and a used length of 9", () => {
    const { guest } = pair()
    expect(append(guest, 16, 2)).toEqual({ status: OK, length: 9, at: 16n })
    expect(append(guest, 16, 3)).toEqual({ status: OK, length: 9, at: 18n })
    expect(write(guest, 21)).toBe(OK)
    expect([guest.read(16, 2).data, guest.read(18, 3).data]).toEqual([pattern(116, 2), pattern(116, 3)])
    expect(guest.disk.device.statistics.zoneAppend).toEqual({ requests: 2, bytes: 5 * S, errors: 0 })
  })

  it("ZN-08 an append takes any framing: append_sector byte by byte, with the status, behind other writable bytes", () => {
    const { guest } = pair()
    const placed = guest.place({ type: ZONE.APPEND, sector: 24, out: pattern(0, 1), in: 16 })
    const [head, data] = placed.pieces
    if (head === undefined || data === undefined) throw new Error("no pieces")
    const bytes = Array.from({ length: 8 }, (_, at) => ({ address: placed.in + at, length: 1, writable: true }))
    expect(guest.runPieces([head, data, ...bytes, { address: placed.status, length: 1, writable: true }], { indirect: true })).toBe(9)
    expect([...guest.reply(placed, 9).data]).toEqual([24, 0, 0, 0, 0, 0, 0, 0, ...Array.from({ length: 8 }, () => 0xa5)])
    const together = guest.place({ type: ZONE.APPEND, sector: 24, out: pattern(0, 1), in: 9 })
    const [, , end] = together.pieces
    if (end === undefined) throw new Error("no pieces")
    expect(guest.runPieces([...together.pieces.slice(0, 2), end])).toBe(9)
    expect([...guest.reply(together, 9).data]).toEqual([25, 0, 0, 0, 0, 0, 0, 0, OK])
    // What is before append_sector has not been written, so nothing is claimed.
    expect(append(guest, 24, 1, 12)).toEqual({ status: OK, length: 0, at: 26n })
  })

  it("ZN-08 3 is off the start of a zone, a conventional or full one, or too much data; no room for the sector is IOERR", () => {
    const { guest } = pair({ maxAppendSize: 4 * S })
    expect([17, 0, 8, 60, 2 ** 50].map((sector) => append(guest, sector, 1).status)).toEqual(Array.from({ length: 5 }, () => INVALID_CMD))
    expect([append(guest, 16, 5).status, append(guest, 16, 4).status, append(guest, 16, 3).status]).toEqual([INVALID_CMD, OK, INVALID_CMD])
    expect([append(guest, 16, 2).status, append(guest, 16, 1).status]).toEqual([OK, INVALID_CMD])
    for (const room of [0, 7]) expect(append(guest, 24, 1, room)).toMatchObject({ status: IOERR, length: 0 + Number(room === 0) })
    expect(guest.run({ type: ZONE.APPEND, sector: 24, out: new Uint8Array(513), in: 8 })).toMatchObject({ status: IOERR, length: 0 })
    expect(stateOf(guest, 24)).toBe(1)
  })

  it("ZN-08 an append is UNSUPP if max_append_sectors is 0", () => {
    const { guest } = pair({ maxAppendSize: 0 })
    expect([guest.config(0x54, 4), append(guest, 16, 1).status]).toEqual([0, UNSUPP])
  })

  it("ZN-08 a disk that answers later gets a copy of the data, and its answer is checked", async () => {
    const { disk } = pair()
    const answers: unknown[] = [19 * S, 3, "512", undefined]
    let seen: Uint8Array | undefined
    const zones: Zones = {
      ...disk.zones,
      append: (buffers) => {
        seen = buffers[0]
        return Promise.resolve(answers.shift() as number)
      },
    }
    const inner: VirtioBacking = {
      asynchronous: true,
      size: disk.size,
      readOnly: false,
      pread: () => {},
      pwrite: () => {},
      close: () => {},
      zones,
    }
    const errors: unknown[] = []
    const guest = new RingGuest({ backing: inner, features: FEATURES, disk: { onError: (error) => errors.push(error) } })
    const placed = guest.place({ type: ZONE.APPEND, sector: 16, out: pattern(1, 1), in: 8 })
    guest.publish([guest.chain(placed.pieces)])
    guest.kick()
    guest.fill(placed.out, S, 0)
    expect(seen).toEqual(pattern(1, 1))
    await settled()
    expect([guest.takeUsed()[0]?.length, guest.reply(placed, 0)]).toMatchObject([
      9, { status: OK, data: Uint8Array.of(19, 0, 0, 0, 0, 0, 0, 0) },
    ])
    expect(errors).toEqual([])
  })
})

describe("an unwritten part of a zone", () => {
  it("ZN-09 zeroes are read above the write pointer, behind a finish, after a reset, and behind the capacity", () => {
    const { guest, memory } = pair()
    memory.pwrite(new Uint8Array(44 * S).fill(0xee), 16 * S)
    write(guest, 16, 2)
    const zeroes = (sectors: number): Uint8Array => new Uint8Array(sectors * S)
    expect(guest.read(17, 7).data).toEqual(Uint8Array.of(...pattern(17, 1), ...zeroes(6)))
    act(guest, ZONE.FINISH, 16)
    expect(guest.read(18, 6).data).toEqual(zeroes(6))
    expect([write(guest, 24, 6), guest.read(30, 2).data]).toEqual([OK, zeroes(2)])
    act(guest, ZONE.RESET, 24)
    expect(guest.read(24, 8).data).toEqual(zeroes(8))
    expect(write(guest, 24)).toBe(OK)
    expect(guest.read(24, 2).data).toEqual(Uint8Array.of(...pattern(24, 1), ...zeroes(1)))
    // A read over the border of two sequential zones is refused.
    expect([guest.read(23, 2).status, guest.read(15, 2).status, guest.read(7, 2).status]).toEqual([INVALID_CMD, INVALID_CMD, OK])
  })

  it("ZN-09 SECURE_ERASE resets whole zones, and leaves zeroes in the data", () => {
    const { guest, memory } = pair({}, [...FEATURES, F.SECURE_ERASE])
    expect([guest.config(0x44, 4), guest.config(0x3c, 4) % 8]).toEqual([8, 0])
    expect([write(guest, 16, 6), write(guest, 24, 2), write(guest, 32, 2)]).toEqual([OK, OK, OK])
    const erase = (sector: number, sectors: number): number => guest.run({ type: T.SECURE_ERASE, out: ranges({ sector, sectors }) }).status
    expect([erase(16, 4), erase(20, 8), erase(8, 16)]).toEqual([IOERR, IOERR, INVALID_CMD])
    expect([stateOf(guest, 16), stateOf(guest, 24)]).toEqual([14, 2])
    expect(erase(16, 16)).toBe(OK)
    expect([stateOf(guest, 16), stateOf(guest, 24), stateOf(guest, 32)]).toEqual([1, 1, 2])
    const bytes = new Uint8Array(16 * S)
    memory.pread(bytes, 16 * S)
    expect(bytes.every((byte) => byte === 0)).toBe(true)
    expect(erase(56, 4)).toBe(OK)
  })
})

describe("a hostile guest", () => {
  it(`ZN-05 ZN-07 ZN-08 seed ${SEED}: any request of any shape gets an answer, and OK only for what was done`, () => {
    const rng = new Rng(SEED)
    const { disk, guest, memory } = pair({ maxOpenZones: 2, maxActiveZones: 3 }, [...FEATURES, F.SECURE_ERASE])
    const sectors = [
      0, 7, 8, 16, 17, 22, 23, 24, 56, 59, 60, 61, 2 ** 31, 2 ** 32 + 16, 2n ** 55n, 2n ** 63n, 2n ** 64n - 8n, 2n ** 64n - 1n,
    ]
    const types = [...Object.values(ZONE), T.OUT, T.IN, T.SECURE_ERASE, 17, 19, 27]
    for (let round = 0; round < 4000; round++) {
      const sector = rng.chance(0.7) ? rng.below(64) : rng.pick(sectors)
      const out = rng.bytes(rng.chance(0.7) ? S * rng.below(7) : rng.below(1200))
      const type = rng.pick(types)
      const { length, status } = guest.run({ type, sector, out, in: rng.pick([0, 1, 7, 8, 9, 63, 64, 65, 128, 200, 512]) }, {
        indirect: rng.chance(0.5),
      })
      expect(status).toBeLessThanOrEqual(ACTIVE_RESOURCE)
      expect(length).toBeLessThanOrEqual(513)
      const zones = disk.zones.report(0, 8)
      const open = zones.filter(({ state }) => state.endsWith("-open")).length
      expect(open).toBeLessThanOrEqual(2)
      expect(open + zones.filter(({ state }) => state === "closed").length).toBeLessThanOrEqual(3)
    }
    expect(guest.disk.device.brokenBy).toBeUndefined()
    // Behind the capacity of a zone nothing is ever stored.
    const beyond = new Uint8Array(2 * S)
    for (const start of [22, 30, 38, 46, 54]) {
      memory.pread(beyond, start * S)
      expect([start, beyond.every((byte) => byte === 0)]).toEqual([start, true])
    }
  })
})

describe("a zoned disk that stops at an error", () => {
  function stopping(writes: readonly number[], flushes: readonly number[] = [], sectors = 60) {
    const memory = new MemoryBacking({ size: sectors * S })
    const calls = { write: 0, flush: 0 }
    const failing = (name: "write" | "flush", which: readonly number[]): void => {
      if (which.includes(++calls[name])) throw new BackingError("io", "injected")
    }
    const data: VirtioBacking = {
      size: memory.size, readOnly: false, pread: (buffer, offset) => memory.pread(buffer, offset), close: () => {},
      pwrite: (buffer, offset) => (failing("write", writes), memory.pwrite(buffer, offset)), flush: () => failing("flush", flushes),
    }
    const disk = zonedDisk(data, sectors === 60 ? options() : { zoneSize: sectors * S })
    const features = flushes.length > 0 ? [F.ZONED, F.INDIRECT_DESC] : FEATURES
    const guest = new RingGuest({ backing: disk, features, disk: { writeErrors: "stop" }, machine: { ramSize: 8 << 20 } })
    return { disk, guest }
  }
  async function resumed(guest: RingGuest): Promise<void> {
    for (let left = 4; left > 0 && guest.disk.device.stoppedBy !== undefined; left--) {
      guest.disk.device.resume()
      await settled()
    }
  }

  it("ZN-07 a long write continues where it stopped, at the moved write pointer", async () => {
    const { disk, guest } = stopping([2], [], 8192)
    const data = pattern(0, 6144)
    const placed = guest.place({ type: T.OUT, sector: 0, out: data })
    guest.publish([guest.chain(placed.pieces)])
    guest.kick()
    await settled()
    expect(guest.disk.device.stoppedBy).toMatchObject({ sector: 0 })
    // Done from its beginning it would fail.
    expect(() => guest.disk.device.virtio.saveState()).toThrow("a write to a zone of the disk is half done")
    await expect(guest.disk.device.changeBacking(disk)).rejects.toThrow("a write to a zone of the disk is half done")
    await resumed(guest)
    expect(guest.reply(placed, 0).status).toBe(OK)
    const found = new Uint8Array(data.length)
    disk.pread(found, 0)
    expect([Buffer.compare(found, data), disk.zones.report(0, 1)[0]?.writePointer]).toEqual([0, data.length])
  })

  it("ZN-07 ZN-08 in write-through mode the flush is repeated, and no data is written or appended twice", async () => {
    const { disk, guest } = stopping([], [1, 2])
    const requests = [
      { type: T.OUT, sector: 0, out: pattern(1, 1) }, { type: T.OUT, sector: 16, out: pattern(2, 1) },
      { type: T.OUT, sector: 17, out: pattern(3, 1) }, { type: ZONE.APPEND, sector: 24, out: pattern(4, 1), in: 8 },
    ]
    const placed = requests.map((request) => guest.place(request))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
    guest.kick()
    await settled()
    expect(() => guest.disk.device.virtio.saveState()).toThrow("half done")
    await resumed(guest)
    expect(() => guest.disk.device.virtio.saveState()).not.toThrow()
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([OK, OK, OK, OK])
    expect([16, 24].map((sector) => disk.zones.report(sector * S, 1)[0]?.writePointer)).toEqual([18 * S, 25 * S])
    const last = placed[3]
    if (last === undefined) throw new Error("nothing was placed")
    expect(guest.reply(last, 8).data).toEqual(Uint8Array.of(24, 0, 0, 0, 0, 0, 0, 0))
  })

  it.each([false, true])("ZN-08 an append that failed is repeated, unless it may be done already: %s", async (mayBeDone) => {
    const { disk } = pair()
    let fails = true
    const append: Zones["append"] = async (buffers, start) => {
      const offset = await disk.zones.append(fails && !mayBeDone ? [] : buffers, start)
      if (fails) throw new BackingError("io", "the connection is lost", { mayBeDone })
      return offset
    }
    const backing = {
      asynchronous: true, size: disk.size, readOnly: false, pread: () => {}, pwrite: () => {}, close: () => {},
      zones: { ...disk.zones, append },
    } as const
    const errors: unknown[] = []
    const guest = new RingGuest({ backing, features: FEATURES, disk: { writeErrors: "stop", onError: (error) => errors.push(error) } })
    const placed = guest.place({ type: ZONE.APPEND, sector: 16, out: pattern(1, 1), in: 8 })
    guest.publish([guest.chain(placed.pieces)])
    guest.kick()
    await settled()
    expect([guest.disk.device.stoppedBy === undefined, guest.usedIdx(), errors.length]).toEqual([mayBeDone, Number(mayBeDone), 1])
    fails = false
    await resumed(guest)
    expect([guest.reply(placed, 0).status, disk.zones.report(16 * S, 1)[0]?.writePointer]).toEqual([mayBeDone ? IOERR : OK, 17 * S])
  })
})

describe("another disk in the place of a zoned one", () => {
  it("ZN-02 the new disk must have the same zones while a driver uses them, and may have others after a reset", async () => {
    const { guest } = pair()
    const same = pair().disk
    await guest.disk.device.changeBacking(same)
    expect([write(guest, 16), same.zones.report(16 * S, 1)[0]?.state]).toEqual([OK, "implicitly-open"])
    for (const other of [pair({ maxOpenZones: 1 }).disk, new MemoryBacking({ size: 60 * S })]) {
      await expect(guest.disk.device.changeBacking(other)).rejects.toThrow(/zones|ZONED/)
    }
    guest.status = 0
    await guest.disk.device.changeBacking(new MemoryBacking({ size: 60 * S }))
    expect([guest.offers(F.ZONED), guest.config(0x48, 4), guest.modern.negotiate(VERSION_1)]).toEqual([false, 0, true])
    guest.status = 0
    await guest.disk.device.changeBacking(same)
    expect([guest.offers(F.ZONED), guest.config(0x48, 4), guest.modern.negotiate(VERSION_1)]).toEqual([true, 8, false])
  })
})

describe("zones of a backing of one's own", () => {
  it("are checked when the device is made", () => {
    const { disk } = pair()
    const wrong = (zones: object): (() => VirtioBlk) => () => new VirtioBlk(
      Object.assign(pair().disk, { zones: { ...disk.zones, ...zones } }),
    )
    expect(wrong({ model: "drive-managed" })).toThrow(TypeError)
    expect(wrong({ zoneSize: 100 })).toThrow("zoneSize of the backing's zones is 100")
    expect(wrong({ writeGranularity: 0 })).toThrow("writeGranularity of the backing's zones is 0")
    expect(wrong({ maxOpenZones: -1 })).toThrow("maxOpenZones of the backing's zones is -1")
    expect(wrong({ report: undefined })).toThrow("has no report")
    expect(wrong({ append: async () => Promise.resolve(0) })).toThrow("append of the backing's zones is an async function")
    expect(wrong({})).not.toThrow()
  })
})
