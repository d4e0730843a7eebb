/** DISCARD and WRITE_ZEROES: their segments, what is refused, and what is left untouched then. */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { eio, FakeDisk } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { pattern, ranges } from "../../harness/requests.ts"
import { F, IOERR, OK, T, UNSUPP } from "../../harness/words.ts"

const SECTORS = 2048

function pair(features: readonly number[] = [F.DISCARD, F.WRITE_ZEROES, F.FLUSH, F.INDIRECT_DESC]): { disk: FakeDisk; guest: RingGuest } {
  const disk = new FakeDisk({ size: 512 * SECTORS })
  disk.cache.fill(0x77)
  return { disk, guest: new RingGuest({ backing: disk, features }) }
}

const BOTH = [["DISCARD", T.DISCARD], ["WRITE_ZEROES", T.WRITE_ZEROES]] as const

describe("segments", () => {
  it("BLK-22 a segment has the fields of the specification: le64 sector, le32 num_sectors, le32 flags", () => {
    const { disk, guest } = pair()
    const out = Uint8Array.of(0x34, 0x02, 0, 0, 0, 0, 0, 0, 0x21, 0x01, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0)
    expect(guest.run({ type: T.WRITE_ZEROES, out })).toMatchObject({ status: OK, length: 1 })
    expect(disk.log).toEqual([
      { name: "writeZeroes", offset: 0x234 * 512, length: 0x121 * 512, buffers: 0, mayUnmap: true },
      { name: "writeZeroes", offset: 5 * 512, length: 1024, buffers: 0, mayUnmap: false },
    ])
  })

  it("BLK-22 segments may be split over descriptors, or follow the header in one", () => {
    const { disk, guest } = pair()
    const placed = guest.place({ type: T.DISCARD, out: ranges({ sector: 1, sectors: 2 }, { sector: 9, sectors: 1 }) })
    const [head, , status] = placed.pieces
    if (head === undefined || status === undefined) throw new Error("no pieces")
    const cuts = [1, 2, 5, 8, 16].map(
      (at, index, all) => ({ address: placed.out + (all[index - 1] ?? 0), length: at - (all[index - 1] ?? 0), writable: false }),
    )
    expect(guest.runPieces([head, ...cuts, { address: placed.out + 16, length: 16, writable: false }, status], { indirect: true })).toBe(1)
    expect(disk.log.map(({ offset, length }) => [offset, length])).toEqual([[512, 1024], [9 * 512, 512]])
    expect(disk.cache[1024]).toBe(0xdd)
  })

  it.each(BOTH)("BLK-23 %s: a reserved flag in any segment is UNSUPP, and so is unmap in a discard", (name, type) => {
    const { disk, guest } = pair()
    const flagged = (flags: number) => guest.run({
      type,
      out: ranges({ sector: 0, sectors: 1 }, { sector: 5, sectors: 1, flags }, { sector: 9, sectors: 1 }),
    })
    for (const flags of [2, 4, 0x8000_0000, 0xffff_fffe, 0x4000_0001, 3]) {
      expect([flags, flagged(flags)]).toMatchObject([flags, { status: UNSUPP, length: 1 }])
    }
    if (name === "DISCARD") expect(flagged(1).status).toBe(UNSUPP)
    expect(disk.log).toEqual([])
    expect(flagged(name === "DISCARD" ? 0 : 1).status).toBe(OK)
  })

  it.each(BOTH)("BLK-24 BLK-27 %s: an invalid segment leaves all of the others undone, and the disk as it was", (_, type) => {
    const { disk, guest } = pair()
    const bad = [
      { sector: SECTORS, sectors: 1 },
      { sector: SECTORS - 1, sectors: 2 },
      { sector: 0, sectors: SECTORS + 1 },
      { sector: 1, sectors: 0xffff_ffff },
      { sector: 0xffff_ffff_ffff_ffffn, sectors: 1 },
      { sector: 0xffff_ffff_ffff_ffffn, sectors: 2 },
      { sector: 1n << 55n, sectors: 1 },
      { sector: (1n << 63n) + 1n, sectors: 8 },
    ]
    for (const segment of bad) {
      for (const out of [ranges(segment), ranges({ sector: 0, sectors: 4 }, segment), ranges(segment, { sector: 0, sectors: 4 })]) {
        expect(guest.run({ type, out })).toMatchObject({ status: IOERR, length: 1 })
      }
    }
    expect(disk.log).toEqual([])
    expect(disk.cache.every((byte) => byte === 0x77)).toBe(true)
    expect(guest.run({ type, out: ranges({ sector: SECTORS - 1, sectors: 1 }) }).status).toBe(OK)
  })

  it.each([
    ["DISCARD", T.DISCARD, 0x24] as const, ["WRITE_ZEROES", T.WRITE_ZEROES, 0x30] as const,
  ])("BLK-25 %s: as many and as long segments as the device states work, and more fail", async (_, type, field) => {
    const backing = new MemoryBacking({ size: 2 ** 42 })
    const guest = new RingGuest({ backing })
    const [maxSectors, maxSegments] = [guest.config(field, 4), guest.config(field + 4, 4)]
    expect((await guest.runLong({ type, out: ranges({ sector: 7, sectors: maxSectors }) })).status).toBe(OK)
    expect(guest.run({ type, out: ranges({ sector: 7, sectors: maxSectors + 1 }) }).status).toBe(IOERR)
    const segments = (count: number) => ranges(...Array.from({ length: count }, (_, at) => ({ sector: at * 2 ** 23, sectors: maxSectors })))
    expect((await guest.runLong({ type, out: segments(maxSegments) })).status).toBe(OK)
    expect(guest.run({ type, out: segments(maxSegments + 1) }).status).toBe(IOERR)
    // A list of megabytes is refused by its length; unknown flags count for more.
    expect(guest.run({ type, out: new Uint8Array(4 << 20) }).status).toBe(IOERR)
    const flagged = segments(maxSegments + 1)
    for (const flags of [2, 0x8000_0000]) {
      new DataView(flagged.buffer).setUint32(flagged.length - 4, flags, true)
      expect(guest.run({ type, out: flagged }).status).toBe(UNSUPP)
    }
  })

  it.each(BOTH)("BLK-26 %s: a list that is not whole segments is IOERR; no segments, and segments of no sectors, are OK", (_, type) => {
    const { disk, guest } = pair()
    for (const length of [1, 15, 17, 24, 31]) {
      expect([length, guest.run({ type, out: new Uint8Array(length) }).status]).toEqual([length, IOERR])
    }
    expect(guest.run({ type })).toMatchObject({ status: OK, length: 1 })
    expect(
      guest.run({ type, out: ranges({ sector: 3, sectors: 0 }, { sector: SECTORS, sectors: 0 }) }),
    ).toMatchObject({ status: OK, length: 1 })
    expect(disk.log).toEqual([])
  })

  it("BLK-32 a request is UNSUPP if the feature is offered but not negotiated", () => {
    for (const [features, discard, zeroes] of [
      [[F.FLUSH], UNSUPP, UNSUPP], [[F.DISCARD], OK, UNSUPP], [[F.WRITE_ZEROES], UNSUPP, OK],
    ] as const) {
      const { disk, guest } = pair(features)
      expect([guest.offers(F.DISCARD), guest.offers(F.WRITE_ZEROES)]).toEqual([true, true])
      const out = ranges({ sector: 0, sectors: 1 })
      expect([guest.run({ type: T.DISCARD, out }).status, guest.run({ type: T.WRITE_ZEROES, out }).status]).toEqual([discard, zeroes])
      expect([guest.run({ type: T.SECURE_ERASE, out }).status, guest.run({ type: T.GET_LIFETIME, in: 6 }).status]).toEqual([UNSUPP, UNSUPP])
      expect(disk.takeNames().filter((name) => name !== "flush")).toHaveLength(Number(discard === OK) + Number(zeroes === OK))
    }
  })

  it("BLK-36 the first segment that fails ends the request with IOERR, and the next ones are not begun", () => {
    for (const [, type] of BOTH) {
      const { disk, guest } = pair()
      disk.failing = ({ offset }) => (offset === 4 * 512 ? eio() : undefined)
      expect(
        guest.run({ type, out: ranges({ sector: 0, sectors: 1 }, { sector: 4, sectors: 1 }, { sector: 9, sectors: 1 }) }),
      ).toMatchObject({ status: IOERR, length: 1 })
      expect(disk.log.map(({ offset }) => offset)).toEqual([0, 4 * 512])
    }
  })
})

describe("the disk after discards and zeroes", () => {
  it("BLK-28 BLK-29 a discard of any alignment changes only its range, which can still be read", () => {
    const backing = new MemoryBacking({ size: 512 * SECTORS })
    const guest = new RingGuest({ backing })
    expect(guest.config(0x2c, 4)).toBe(128)
    for (const [sector, sectors] of [[1, 1], [127, 2], [3, 300], [128, 128], [100, 1000]] as const) {
      guest.write(0, pattern(0, SECTORS))
      expect(guest.run({ type: T.DISCARD, out: ranges({ sector, sectors }) })).toMatchObject({ status: OK, length: 1 })
      expect(Buffer.compare(guest.read(0, sector).data, pattern(0, sector))).toBe(0)
      expect(
        Buffer.compare(
          guest.read(sector + sectors, SECTORS - sector - sectors).data,
          pattern(sector + sectors, SECTORS - sector - sectors),
        ),
      ).toBe(0)
      expect(guest.read(sector, sectors).status).toBe(OK)
    }
  })

  it("BLK-30 BLK-31 exactly the range of write-zeroes reads as zeroes, with unmap and without", () => {
    const rng = new Rng(seedFromEnvironment(20260805))
    const backing = new MemoryBacking({ size: 512 * SECTORS })
    const guest = new RingGuest({ backing })
    const model = pattern(0, SECTORS)
    guest.write(0, model)
    for (let round = 0; round < 60; round++) {
      const segments = Array.from({ length: rng.between(1, 4) }, () => {
        const sector = rng.below(SECTORS)
        return { sector, sectors: rng.below(Math.min(SECTORS - sector, rng.pick([3, 400])) + 1), flags: rng.below(2) }
      })
      expect(guest.run({ type: T.WRITE_ZEROES, out: ranges(...segments) }).status).toBe(OK)
      for (const { sector, sectors } of segments) model.fill(0, 512 * sector, 512 * (sector + sectors))
      expect(Buffer.compare(guest.read(0, SECTORS).data, model)).toBe(0)
      const sector = rng.below(SECTORS - 64)
      const data = rng.bytes(512 * 64)
      model.set(data, 512 * sector)
      expect(guest.write(sector, data).status).toBe(OK)
    }
  })

  it("BLK-31 the backing gets unmap as mayUnmap true, and its absence as false", () => {
    const { disk, guest } = pair()
    guest.run({ type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 1, flags: 1 }, { sector: 1, sectors: 1, flags: 0 }) })
    expect(disk.log.map(({ mayUnmap }) => mayUnmap)).toEqual([true, false])
  })

  it("BLK-22 ranges beyond 4 GiB and beyond sector 2^32 are exact", () => {
    const backing = new MemoryBacking({ size: 2 ** 42 })
    const guest = new RingGuest({ backing })
    for (const sector of [2 ** 23 - 1, 2 ** 32 - 1, 2 ** 32 + 5]) {
      guest.write(sector, pattern(1, 3))
      expect(guest.run({ type: T.WRITE_ZEROES, out: ranges({ sector: sector + 1, sectors: 1 }) }).status).toBe(OK)
      expect(guest.read(sector, 3).data).toEqual(Uint8Array.from([...pattern(1, 1), ...new Uint8Array(512), ...pattern(3, 1)]))
    }
  })
})
