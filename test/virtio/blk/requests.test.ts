/** Reads, writes, GET_ID and what is no known request: one at a time, each with its status, its used length and its effect. */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import type { VirtioBlkOptions } from "../../../src/virtio/blk/config.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { BackingError } from "../../../src/backing/backing.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { eio, FakeDisk } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { header, pattern, ranges, type Request } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { F, IOERR, OK, T, UNSUPP } from "../../harness/words.ts"

const SECTORS = 64

function pair(
  options: ConstructorParameters<typeof FakeDisk>[0] = {}, blk: VirtioBlkOptions = {}, legacy = false,
): { disk: FakeDisk; guest: RingGuest } {
  const disk = new FakeDisk({ size: 512 * SECTORS, ...options })
  disk.cache.set(pattern(0, Math.floor(disk.size / 512)))
  return { disk, guest: new RingGuest({ backing: disk, disk: blk, legacy }) }
}

describe("reads and writes", () => {
  it("BLK-01 BLK-03 BLK-04 a sector is at byte 512 times its number, for reads and writes", () => {
    const { disk, guest } = pair()
    expect(guest.write(5, pattern(77, 3))).toEqual({ status: OK, length: 1, data: new Uint8Array(0) })
    expect(disk.cache.subarray(5 * 512, 8 * 512)).toEqual(pattern(77, 3))
    expect(disk.cache.subarray(0, 5 * 512)).toEqual(pattern(0, 5))
    expect(disk.cache.subarray(8 * 512)).toEqual(pattern(8, SECTORS - 8))
    expect(guest.read(4, 5)).toEqual({
      status: OK,
      length: 5 * 512 + 1,
      data: Uint8Array.from([...pattern(4, 1), ...pattern(77, 3), ...pattern(8, 1)]),
    })
  })

  it("BLK-04 sectors beyond 2^23 and 2^32 go to the exact byte", () => {
    const size = 3 * 2 ** 41
    const backing = new MemoryBacking({ size })
    const guest = new RingGuest({ backing })
    const sectors = [0, 2 ** 22, 2 ** 23 - 1, 2 ** 23, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, size / 512 - 2]
    for (const [at, sector] of sectors.entries()) expect(guest.write(sector, pattern(at * 3, 1)).status).toBe(OK)
    for (const [at, sector] of sectors.entries()) {
      expect(guest.read(sector, 1).data).toEqual(pattern(at * 3, 1))
      const direct = new Uint8Array(512)
      backing.pread(direct, sector * 512)
      expect(direct).toEqual(pattern(at * 3, 1))
    }
    expect(guest.read(size / 512, 1).status).toBe(IOERR)
  })

  it("BLK-03 the word that was ioprio is ignored, and so is the sector of requests that have none", () => {
    const { guest } = pair({}, { serial: "abc" })
    for (const reserved of [1, 0x8000_0000, 0xffff_ffff]) {
      expect(guest.run({ type: T.IN, sector: 3, reserved, in: 512 }).data).toEqual(pattern(3, 1))
      for (const sector of [SECTORS, 2 ** 53, 0xffff_ffff_ffff_ffffn]) {
        expect(guest.run({ type: T.FLUSH, sector, reserved }).status).toBe(OK)
        expect(guest.run({ type: T.GET_ID, sector, reserved, in: 20 }).status).toBe(OK)
        expect(guest.run({ type: T.DISCARD, sector, reserved, out: ranges({ sector: 0, sectors: 1 }) }).status).toBe(OK)
        expect(guest.run({ type: T.WRITE_ZEROES, sector, reserved, out: ranges({ sector: 0, sectors: 1 }) }).status).toBe(OK)
      }
    }
  })

  it("BLK-05 a request with a part of a sector is IOERR, and nothing moves", () => {
    const { disk, guest } = pair()
    for (const length of [1, 511, 513, 1023]) {
      expect(guest.run({ type: T.IN, sector: 1, in: length })).toEqual({
        status: IOERR, length: 0, data: new Uint8Array(length).fill(0xa5),
      })
      expect(guest.run({ type: T.OUT, sector: 1, out: new Uint8Array(length) })).toMatchObject({ status: IOERR, length: 1 })
    }
    expect(disk.log).toEqual([])
    expect(disk.cache).toEqual(pattern(0, SECTORS))
  })

  it("BLK-06 a request without data is OK, and the backing is not called", () => {
    const { disk, guest } = pair()
    expect(guest.run({ type: T.IN, sector: 3 })).toMatchObject({ status: OK, length: 1 })
    expect(guest.run({ type: T.OUT, sector: 3 })).toMatchObject({ status: OK, length: 1 })
    expect(guest.run({ type: T.IN, sector: SECTORS })).toMatchObject({ status: OK, length: 1 })
    expect(disk.log).toEqual([])
    expect(guest.run({ type: T.IN, sector: SECTORS + 1 }).status).toBe(IOERR)
  })

  it("BLK-08 the last sector works; a request beyond the end, by one sector or by 2^64, is IOERR without a transfer", () => {
    const { disk, guest } = pair()
    expect(guest.read(SECTORS - 1, 1)).toMatchObject({ status: OK, length: 513 })
    expect(guest.write(SECTORS - 1, pattern(9, 1)).status).toBe(OK)
    const before = disk.cache.slice()
    disk.log.length = 0
    const single = [
      SECTORS,
      2 ** 32,
      2 ** 52,
      2 ** 55 - 1,
      (1n << 55n) + 1n,
      0x7fff_ffff_ffff_ffffn,
      1n << 63n,
      0xffff_ffff_ffff_ffffn,
    ].map((sector) => [sector, 1] as const)
    const wrong = [...single, [SECTORS - 1, 2], [1, SECTORS], [0xffff_ffff_ffff_fffen, 4]] as const
    for (const [sector, count] of wrong) {
      expect(guest.read(sector, count)).toEqual({ status: IOERR, length: 0, data: new Uint8Array(512 * count).fill(0xa5) })
      expect(guest.write(sector, pattern(9, count))).toMatchObject({ status: IOERR, length: 1 })
    }
    expect(disk.log).toEqual([])
    expect(Buffer.compare(disk.cache, before)).toBe(0)
  })

  it("BLK-09 every change of a read-only disk is IOERR and stores nothing, and reads and flushes work", () => {
    for (const legacy of [false, true]) {
      const { disk, guest } = pair({ readOnly: true }, {}, legacy)
      const segment = ranges({ sector: 0, sectors: 1 })
      const changes = [{ type: T.OUT, out: pattern(9, 1) }, { type: T.OUT }, { type: T.DISCARD, out: segment }, {
        type: T.WRITE_ZEROES, out: segment,
      }, { type: T.SECURE_ERASE, out: segment }]
      for (const request of changes) expect(guest.run(request)).toMatchObject({ status: IOERR, length: 1 })
      expect(disk.log).toEqual([])
      expect([guest.read(3, 1).data, guest.run({ type: T.FLUSH }).status]).toEqual([pattern(3, 1), OK])
      expect(disk.cache).toEqual(pattern(0, SECTORS))
    }
  })

  it("BLK-10 BLK-33 BLK-34 BLK-38 ZN-01 types that the device does not know or offer are UNSUPP, and the data stay", () => {
    const { disk, guest } = pair()
    for (const type of [
      2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 22, 24, 26, 28, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_ffff,
    ]) {
      expect(guest.run({ type, in: 32 })).toEqual({ status: UNSUPP, length: 0, data: new Uint8Array(32).fill(0xa5) })
      expect(guest.run({ type, out: ranges({ sector: 0, sectors: 1 }) })).toMatchObject({ status: UNSUPP, length: 1 })
      expect(guest.run({ type })).toMatchObject({ status: UNSUPP, length: 1 })
    }
    expect(disk.log).toEqual([])
    expect(guest.read(0, 1).status).toBe(OK)
  })

  it("BLK-02 all known types have the numbers of the specification", () => {
    const { disk, guest } = pair()
    const seen = (request: Request) => {
      expect(guest.run(request).status).toBe(OK)
      return disk.takeNames()
    }
    expect(seen({ type: 0, in: 512 })).toEqual(["read"])
    expect(seen({ type: 1, out: pattern(0, 1) })).toEqual(["write"])
    expect(seen({ type: 4 })).toEqual(["flush"])
    expect(seen({ type: 8, in: 20 })).toEqual([])
    expect(seen({ type: 11, out: ranges({ sector: 0, sectors: 1 }) })).toEqual(["discard"])
    expect(seen({ type: 13, out: ranges({ sector: 0, sectors: 1 }) })).toEqual(["writeZeroes"])
  })

  it("BLK-11 BLK-36 a request that fails in the backing is IOERR with a used length of 1, and others go on", () => {
    const { disk, guest } = pair({}, { serial: "x" })
    const fails = (name: string) => (disk.failing = (call) => (call.name === name ? eio() : undefined))
    fails("read")
    expect(guest.read(1, 2)).toMatchObject({ status: IOERR, length: 0 })
    expect(guest.write(1, pattern(5, 1)).status).toBe(OK)
    fails("write")
    expect(guest.write(1, pattern(6, 1))).toMatchObject({ status: IOERR, length: 1 })
    expect(guest.read(1, 1)).toMatchObject({ status: OK, length: 513, data: pattern(5, 1) })
    fails("flush")
    expect(guest.run({ type: T.FLUSH })).toMatchObject({ status: IOERR, length: 1 })
    fails("discard")
    expect(guest.run({ type: T.DISCARD, out: ranges({ sector: 0, sectors: 1 }) })).toMatchObject({ status: IOERR, length: 1 })
    fails("writeZeroes")
    expect(guest.run({ type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 1 }) })).toMatchObject({ status: IOERR, length: 1 })
    disk.failing = () => undefined
    expect(guest.read(1, 1).status).toBe(OK)
    expect(guest.status).toBe(0x0f)
    expect(guest.disk.device.lastError).toMatchObject({ code: "io" })
  })

  it("BLK-36 a BackingError with the code unsupported is UNSUPP, and any other IOERR", () => {
    const { disk, guest } = pair()
    const codes = [
      "io", "no-space", "out-of-bounds", "read-only", "corrupt", "invalid-format", "not-found", "permission", "busy", "closed",
      "invalid-argument",
    ] as const
    for (const code of codes) {
      disk.failing = () => new BackingError(code, "injected")
      expect([code, guest.read(0, 1).status]).toEqual([code, IOERR])
    }
    disk.failing = () => new BackingError("unsupported", "injected")
    expect(guest.read(0, 1).status).toBe(UNSUPP)
  })

  it("BLK-36 another error of the backing is IOERR, and the kick throws it to the embedder", () => {
    const { disk, guest } = pair()
    const bug = new TypeError("injected: undefined is not a function")
    disk.failing = ({ offset, length }) => (offset <= 512 && offset + length > 512 ? bug : undefined)
    const placed = [0, 1, 40].map((sector) => guest.place({ type: T.IN, sector, in: 512 }))
    const heads = placed.map(({ pieces }) => guest.chain(pieces))
    guest.publish(heads)
    guest.irqs()
    expect(() => guest.kick()).toThrow(bug)
    expect(guest.takeUsed().map(({ id }) => id)).toEqual(heads)
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([OK, IOERR, OK])
    expect(guest.queueIrqs()).toBeGreaterThan(0)
    expect(guest.disk.device.lastError).toBe(bug)
    // It is thrown once.
    expect(guest.read(7, 1)).toMatchObject({ status: OK, data: pattern(7, 1) })
  })

  it("BLK-14 data of the wrong direction is skipped, and the status is the last writable byte", () => {
    const { disk, guest } = pair()
    expect(
      guest.run({ type: T.IN, sector: 3, out: new Uint8Array(700), in: 512 }),
    ).toEqual({ status: OK, length: 513, data: pattern(3, 1) })
    expect(guest.run({ type: T.IN, sector: 3, out: pattern(1, 1) })).toMatchObject({ status: OK, length: 1 })
    expect(
      guest.run({ type: T.OUT, sector: 3, out: pattern(50, 1), in: 512 }),
    ).toEqual({ status: OK, length: 0, data: new Uint8Array(512).fill(0xa5) })
    expect(disk.cache.subarray(3 * 512, 4 * 512)).toEqual(pattern(50, 1))
    expect(guest.run({ type: T.FLUSH, out: pattern(1, 2), in: 100 })).toEqual({
      status: OK, length: 0, data: new Uint8Array(100).fill(0xa5),
    })
    expect(guest.run({ type: T.OUT, sector: 3, in: 512 })).toMatchObject({ status: OK, length: 0 })
    expect(guest.run({ type: T.GET_ID, out: pattern(1, 1), in: 20 })).toMatchObject({ status: OK, length: 21 })
  })

  it("random reads and writes, in batches, agree with a flat array", () => {
    const rng = new Rng(seedFromEnvironment(20260804))
    const { disk, guest } = pair({ size: 512 * 300 })
    const model = disk.cache.slice()
    for (let round = 0; round < 300; round++) {
      const mark = guest.top
      const requests = Array.from({ length: rng.between(1, 20) }, () => {
        const sector = rng.below(300)
        const count = rng.between(1, rng.pick([1, 4, 300 - sector]))
        const isWrite = rng.chance(0.5)
        const out = isWrite ? rng.bytes(512 * count) : undefined
        const placed = guest.place({ type: isWrite ? T.OUT : T.IN, sector, ...(out === undefined ? { in: 512 * count } : { out }) })
        return { sector, count: Math.min(count, 300 - sector), isGood: sector + count <= 300, out, placed }
      })
      guest.publish(requests.map(({ placed }) => guest.chain(placed.pieces, { indirect: rng.chance(0.5) })))
      guest.kick()
      expect(guest.takeUsed()).toHaveLength(requests.length)
      for (const { sector, count, isGood, out, placed } of requests) {
        const { status, data } = guest.reply(placed, 0)
        expect(status).toBe(isGood ? OK : IOERR)
        if (!isGood) continue
        if (out !== undefined) model.set(out, 512 * sector)
        else expect(Buffer.compare(data, model.subarray(512 * sector, 512 * (sector + count)))).toBe(0)
      }
      guest.top = mark
    }
    expect(Buffer.compare(disk.cache, model)).toBe(0)
  })
})

describe("GET_ID", () => {
  const id = (serial: string, length: number) => {
    const { guest } = pair({}, { serial })
    return guest.run({ type: T.GET_ID, in: length })
  }
  const ascii = (text: string, length: number) => Uint8Array.from({ length }, (_, at) => text.charCodeAt(at) || 0)

  it("BLK-21 GET_ID returns 20 bytes, padded with NUL if the serial is shorter, and truncates longer serials", () => {
    for (const serial of ["", "vio-5", "12345678901234567890", "123456789012345678901234567890"]) {
      expect(id(serial, 20)).toEqual({ status: OK, length: 21, data: ascii(serial.slice(0, 20), 20) })
    }
  })

  it("BLK-21 GET_ID fills a smaller buffer, and writes 20 bytes to a larger one", () => {
    expect(id("123456789012345", 10)).toEqual({ status: OK, length: 11, data: ascii("1234567890", 10) })
    expect(id("12345", 64)).toEqual({
      status: OK,
      length: 20,
      data: Uint8Array.from([...ascii("12345", 20), ...new Uint8Array(44).fill(0xa5)]),
    })
    expect(id("12345", 0)).toMatchObject({ status: OK, length: 1 })
  })

  it("BLK-21 GET_ID fills a buffer of several pieces, with the status in the last", () => {
    const { guest } = pair({}, { serial: "ABCDEFGHIJKLMNOPQRST" })
    const at = guest.alloc(16)
    guest.store(at, header({ type: T.GET_ID }))
    const data = guest.alloc(200)
    const pieces: Piece[] = [[0, 3], [50, 1], [100, 9], [150, 8]].map(
      ([offset = 0, length = 0]) => ({ address: data + offset, length, writable: true }),
    )
    expect(guest.runPieces([{ address: at, length: 16, writable: false }, ...pieces])).toBe(21)
    const text = (offset: number, length: number) => String.fromCharCode(...guest.bytes(data + offset, length))
    expect(text(0, 3) + text(50, 1) + text(100, 9) + text(150, 7)).toBe("ABCDEFGHIJKLMNOPQRST")
    expect(guest.bytes(data + 157, 1)[0]).toBe(OK)
  })
})

describe("legacy requests", () => {
  it("BLK-37 type 5 flushes and bit 31 is ignored, but not for a modern driver", () => {
    const { disk, guest } = pair({}, {}, true)
    expect(guest.run({ type: 5 }).status).toBe(OK)
    expect(disk.takeNames()).toEqual(["flush"])
    expect(guest.run({ type: 0x8000_0001, sector: 2, out: pattern(30, 1) })).toMatchObject({ status: OK, length: 1 })
    expect(guest.run({ type: 0x8000_0000, sector: 2, in: 512 })).toEqual({ status: OK, length: 513, data: pattern(30, 1) })
    expect(guest.run({ type: 0x8000_0005 }).status).toBe(OK)
    expect(guest.run({ type: 0x8000_0002 }).status).toBe(UNSUPP)
    const modern = pair().guest
    expect([modern.run({ type: 5 }).status, modern.run({ type: 0x8000_0001, out: pattern(0, 1) }).status]).toEqual([UNSUPP, UNSUPP])
  })

  it("BLK-38 SCSI packet commands, types 2 and 3, in their own shape are UNSUPP", () => {
    const { disk, guest } = pair({}, {}, true)
    expect(guest.offers(F.SCSI)).toBe(false)
    for (const type of [2, 3]) {
      // Header, command, then data, sense (96), errors, data_len, sense_len, residual (16) and status.
      const placed = guest.place({ type, out: new Uint8Array(6), in: 512 + 96 + 16 })
      expect(guest.runPieces(placed.pieces)).toBe(0)
      expect(guest.reply(placed, 0)).toEqual({ status: UNSUPP, length: 0, data: new Uint8Array(512 + 96 + 16).fill(0xa5) })
    }
    expect(disk.log).toEqual([])
  })

  it("VQ-21 BLK-14 used lengths are right for legacy drivers, and the status may share a descriptor with the data", () => {
    const { guest } = pair({}, {}, true)
    const at = guest.alloc(16)
    const data = guest.alloc(1025)
    guest.store(at, header({ type: T.IN, sector: 6 }))
    expect(guest.runPieces([{ address: at, length: 16, writable: false }, { address: data, length: 1025, writable: true }])).toBe(1025)
    expect([guest.bytes(data, 1024), guest.bytes(data + 1024, 1)[0]]).toEqual([pattern(6, 2), OK])
    expect(guest.write(6, pattern(0, 1)).length).toBe(1)
    expect(guest.read(SECTORS, 1).length).toBe(0)
  })
})
