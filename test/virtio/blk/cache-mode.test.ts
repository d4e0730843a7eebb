/** What is on stable storage when: FLUSH, write-back and write-through, over a disk with a volatile cache. */
import { describe, expect, it as once } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { pattern, ranges } from "../../harness/requests.ts"
import { F, IOERR, OK, T, UNSUPP } from "../../harness/words.ts"

const WRITEBACK = 0x20

function pair(options: Partial<RingGuestOptions> = {}, disk = new FakeDisk()): { disk: FakeDisk; guest: RingGuest } {
  return { disk, guest: new RingGuest({ backing: disk, ...options }) }
}

let writes = 0

/** Whether a write of sector `sector` is on stable storage once it has completed. */
function isStable(disk: FakeDisk, guest: RingGuest, sector = 3): boolean {
  const data = pattern(++writes, 1)
  expect(guest.write(sector, data)).toMatchObject({ status: OK, length: 1 })
  return Buffer.compare(disk.stable.subarray(512 * sector, 512 * sector + 512), data) === 0
}

describe("FLUSH", () => {
  it("BLK-15 what was written before a flush is stable when the flush has completed, and the status comes after the sync", () => {
    const { disk, guest } = pair()
    expect(guest.write(1, pattern(1, 1)).status).toBe(OK)
    expect(disk.stable.every((byte) => byte === 0)).toBe(true)
    const placed = guest.place({ type: T.FLUSH })
    let statusAtSync = -1
    disk.failing = ({ name }) => void (name === "flush" && (statusAtSync = guest.bytes(placed.status, 1)[0] ?? -1))
    expect(guest.runPieces(placed.pieces)).toBe(1)
    expect([statusAtSync, guest.bytes(placed.status, 1)[0]]).toEqual([0xee, OK])
    expect(disk.stable.subarray(512, 1024)).toEqual(pattern(1, 1))
  })

  it("BLK-15 a flush on one queue covers what was completed on the others", () => {
    const { disk, guest } = pair({ features: [F.FLUSH, F.MQ], queues: 2, disk: { queues: 2 } })
    const [first, second] = guest.rings
    if (first === undefined || second === undefined) throw new Error("no rings")
    guest.run({ type: T.OUT, sector: 7, out: pattern(7, 1) }, {}, first)
    expect(guest.run({ type: T.FLUSH }, {}, second).status).toBe(OK)
    expect(disk.stable.subarray(7 * 512, 8 * 512)).toEqual(pattern(7, 1))
  })

  it("BLK-15 in a batch of a write and a flush the sync comes after the write", () => {
    const { disk, guest } = pair()
    const heads = [{ type: T.OUT, sector: 2, out: pattern(2, 1) }, { type: T.FLUSH }, {
      type: T.OUT, sector: 3, out: pattern(3, 1),
    }].map((request) => guest.chain(guest.place(request).pieces))
    guest.publish(heads)
    guest.kick()
    expect(disk.takeNames()).toEqual(["write", "flush", "write"])
    expect([disk.stable[1024], disk.stable[1536]]).toEqual([pattern(2, 1)[0], 0])
  })

  it("BLK-15 a flush is done even if FLUSH was not negotiated, and its data are ignored", () => {
    const { disk, guest } = pair({ features: [] })
    expect(guest.run({ type: T.FLUSH, out: pattern(0, 2), in: 5 }).status).toBe(OK)
    expect(disk.takeNames()).toEqual(["flush"])
  })

  it("BLK-15 a backing without flush does not offer it, and a flush is OK all the same", () => {
    const { guest } = pair({}, new FakeDisk({ without: ["flush"] }))
    expect([guest.offers(F.FLUSH), guest.offers(F.CONFIG_WCE), guest.config(WRITEBACK, 1)]).toEqual([false, false, 0])
    expect([guest.run({ type: T.FLUSH }).status, guest.write(0, pattern(0, 1)).status]).toEqual([OK, OK])
  })

  it("BLK-15 a flush that fails is IOERR; one that waits completes once the backing has made earlier writes stable", async () => {
    const { disk, guest } = pair()
    disk.failing = ({ name }) => (name === "flush" ? eio() : undefined)
    expect(guest.run({ type: T.FLUSH })).toMatchObject({ status: IOERR, length: 1 })
    disk.failing = () => undefined
    disk.waits = ({ name }) => name === "flush"
    guest.write(9, pattern(9, 1))
    const placed = guest.place({ type: T.FLUSH })
    guest.publish([guest.chain(placed.pieces)])
    guest.kick()
    expect(guest.takeUsed()).toEqual([])
    disk.next("flush").finish()
    await settled()
    expect([guest.takeUsed().length, guest.reply(placed, 1).status, disk.stable[9 * 512]]).toEqual([1, OK, pattern(9, 1)[0]])
  })
})

describe("cache modes of modern drivers", () => {
  it("BLK-16 without FLUSH and CONFIG_WCE negotiated every write and write-zeroes is stable when it completes", () => {
    const { disk, guest } = pair({ features: [F.WRITE_ZEROES] })
    expect(guest.offers(F.FLUSH)).toBe(true)
    expect(isStable(disk, guest)).toBe(true)
    disk.log.length = 0
    disk.stable.fill(1, 0, 1024)
    expect(guest.run({ type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 2 }) }).status).toBe(OK)
    expect(disk.takeNames()).toEqual(["writeZeroes", "flush"])
    expect(disk.stable[0]).toBe(0)
  })

  it("BLK-19 with FLUSH and without CONFIG_WCE a write completes without a sync", () => {
    const { disk, guest } = pair({ features: [F.FLUSH, F.WRITE_ZEROES] })
    expect([isStable(disk, guest), guest.config(WRITEBACK, 1)]).toEqual([false, 1])
    guest.run({ type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 2 }) })
    expect(disk.takeNames()).toEqual(["write", "writeZeroes"])
    // The field is none of this driver's business.
    guest.setConfig(WRITEBACK, 1, 0)
    expect([guest.config(WRITEBACK, 1), isStable(disk, guest)]).toEqual([1, false])
  })

  it("BLK-17 with CONFIG_WCE writeback 1 is write-back and 0 write-through, and can be switched at run time", () => {
    const { disk, guest } = pair({ features: [F.FLUSH, F.CONFIG_WCE, F.WRITE_ZEROES] })
    for (const [value, stable] of [[1, false], [0, true], [1, false], [0, true], [0xff, false]] as const) {
      guest.setConfig(WRITEBACK, 1, value)
      expect([value, guest.config(WRITEBACK, 1), isStable(disk, guest)]).toEqual([value, stable ? 0 : 1, stable])
      disk.log.length = 0
      guest.run({ type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 1 }) })
      expect(disk.takeNames()).toEqual(stable ? ["writeZeroes", "flush"] : ["writeZeroes"])
    }
    guest.setConfig(WRITEBACK, 1, 0)
    expect([guest.read(0, 1).status, disk.takeNames()]).toEqual([OK, ["read"]])
  })

  once("BLK-17 CONFIG_WCE without FLUSH: writeback starts as 0, and the driver may set it before DRIVER_OK as well as after", () => {
    const disk = new FakeDisk()
    const guest = new RingGuest({ backing: disk, features: [F.CONFIG_WCE] })
    expect([guest.config(WRITEBACK, 1), isStable(disk, guest)]).toEqual([0, true])
    for (const status of [0, 1, 3]) guest.status = status
    guest.registers.accept((1n << BigInt(F.VERSION_1)) | (1n << BigInt(F.CONFIG_WCE)))
    guest.status = 0x0b
    expect(guest.config(WRITEBACK, 1)).toBe(0)
    guest.setConfig(WRITEBACK, 1, 1)
    guest.ring = guest.openRing(0)
    guest.status = 0x0f
    expect([guest.config(WRITEBACK, 1), isStable(disk, guest)]).toEqual([1, false])
  })

  it("BLK-18 a write from before writeback was set to 0 still needs its flush", () => {
    const { disk, guest } = pair({ features: [F.FLUSH, F.CONFIG_WCE] })
    guest.write(5, pattern(5, 1))
    guest.setConfig(WRITEBACK, 1, 0)
    expect(disk.takeNames()).toEqual(["write"])
    guest.run({ type: T.FLUSH })
    expect(disk.stable.subarray(5 * 512, 6 * 512)).toEqual(pattern(5, 1))
  })

  it("BLK-18 the driver's mode does not survive a reset", () => {
    const { guest } = pair({ features: [F.FLUSH, F.CONFIG_WCE] })
    guest.setConfig(WRITEBACK, 1, 0)
    guest.start([F.FLUSH, F.CONFIG_WCE])
    expect(guest.config(WRITEBACK, 1)).toBe(1)
    guest.start([])
    expect(guest.config(WRITEBACK, 1)).toBe(0)
    guest.start([F.FLUSH])
    expect(guest.config(WRITEBACK, 1)).toBe(1)
  })

  it("BLK-16 in write-through mode a batch of writes gets one sync behind them, and none completes before it", () => {
    const { disk, guest } = pair({ features: [F.INDIRECT_DESC] })
    const placed = [10, 11, 12, 90, 5].map((sector) => guest.place({ type: T.OUT, sector, out: pattern(sector, 1) }))
    const statuses = () => placed.map((one) => guest.reply(one, 0).status)
    let atSync: readonly number[] = []
    disk.failing = ({ name }) => void (name === "flush" && (atSync = statuses()))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
    guest.kick()
    expect(disk.takeNames()).toEqual(["write", "write", "write", "flush"])
    expect(atSync).toEqual(placed.map(() => 0xee))
    expect(guest.takeUsed().map(({ length }) => length)).toEqual(placed.map(() => 1))
    expect(statuses()).toEqual(placed.map(() => OK))
  })

  it("BLK-16 in write-through mode a sync that fails is an error of the writes before it, not of reads beside them", () => {
    const { disk, guest } = pair({ features: [] })
    disk.failing = ({ name }) => (name === "flush" ? eio() : undefined)
    const placed = [
      guest.place({ type: T.OUT, sector: 1, out: pattern(1, 1) }),
      guest.place({ type: T.IN, sector: 9, in: 512 }),
      guest.place({ type: T.OUT, sector: 2, out: pattern(2, 1) }),
    ]
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
    guest.kick()
    expect(guest.takeUsed().map(({ length }) => length).toSorted((a, b) => a - b)).toEqual([1, 1, 513])
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([IOERR, OK, IOERR])
    disk.failing = () => undefined
    expect(isStable(disk, guest)).toBe(true)
  })

  it("BLK-16 in write-through mode a backing that answers later gets the write, then the sync; then the request completes", async () => {
    for (const waiting of [["write"], ["flush"], ["write", "flush"]]) {
      const { disk, guest } = pair({ features: [] })
      disk.waits = ({ name }) => waiting.includes(name)
      const placed = [3, 50].map((sector) => guest.place({ type: T.OUT, sector, out: pattern(sector, 1) }))
      guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
      guest.kick()
      for (let step = 0; step < 6; step++) {
        for (const one of placed) {
          if (guest.reply(one, 0).status === OK) expect(disk.stable.subarray(512 * 3, 512 * 4)).toEqual(pattern(3, 1))
        }
        disk.waiting.splice(0, 1).forEach((call) => call.finish())
        await settled()
      }
      expect(guest.takeUsed()).toHaveLength(2)
      expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([OK, OK])
      for (const sector of [3, 50]) expect(disk.stable.subarray(512 * sector, 512 * sector + 512)).toEqual(pattern(sector, 1))
      // And one whose sync fails.
      const failing = guest.place({ type: T.OUT, sector: 8, out: pattern(8, 1) })
      disk.waits = ({ name }) => name === "flush"
      guest.publish([guest.chain(failing.pieces)])
      guest.kick()
      disk.next("flush").fail(eio())
      await settled()
      expect([guest.reply(failing, 0).status, guest.takeUsed()[0]?.length]).toEqual([IOERR, 1])
    }
  })

  it("with FLUSH left out of the offer every write is made stable, and a flush is still done", () => {
    const { disk, guest } = pair({ disk: { withoutFeatures: ["FLUSH"] } })
    expect([guest.offers(F.FLUSH), guest.offers(F.CONFIG_WCE), guest.config(WRITEBACK, 1)]).toEqual([false, false, 0])
    expect(guest.run({ type: T.FLUSH }).status).not.toBe(UNSUPP)
    expect(isStable(disk, guest)).toBe(true)
  })
})

describe("BLK-20 cache modes of legacy drivers", () => {
  /** A legacy driver up to just before DRIVER_OK, with these features. */
  function legacy(features: readonly number[]): { disk: FakeDisk; guest: RingGuest } {
    const { disk, guest } = pair({ legacy: true })
    for (const status of [0, 1, 3]) guest.status = status
    guest.registers.accept(features.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n))
    guest.ring = guest.openRing(0)
    return { disk, guest }
  }

  it("BLK-20 writeback may be read and written before DRIVER, and no status or feature write changes it", () => {
    const { guest } = pair({ legacy: true })
    for (const value of [0, 1]) {
      guest.status = 0
      guest.setConfig(WRITEBACK, 1, value)
      const seen = [guest.config(WRITEBACK, 1)]
      for (const status of [1, 3]) {
        guest.status = status
        seen.push(guest.config(WRITEBACK, 1))
      }
      for (const features of [
        1n << BigInt(F.CONFIG_WCE),
        0n,
        1n << BigInt(F.FLUSH),
        (1n << BigInt(F.FLUSH)) | (1n << BigInt(F.CONFIG_WCE)),
      ]) {
        guest.registers.accept(features)
        seen.push(guest.config(WRITEBACK, 1))
      }
      expect(seen).toEqual(seen.map(() => value))
      guest.ring = guest.openRing(0)
      guest.status = 7
      expect(guest.config(WRITEBACK, 1)).toBe(value)
    }
  })

  it("BLK-20 BLK-16 DRIVER_OK without CONFIG_WCE sets the mode that the driver must expect: by FLUSH", () => {
    for (const [features, stable] of [[[], true], [[F.FLUSH], false]] as const) {
      const { disk, guest } = legacy(features)
      guest.status = 7
      expect([guest.config(WRITEBACK, 1), isStable(disk, guest)]).toEqual([stable ? 0 : 1, stable])
    }
  })

  it("BLK-20 with CONFIG_WCE and without FLUSH, DRIVER_OK leaves the mode as it is", () => {
    for (const value of [0, 1]) {
      const { disk, guest } = legacy([F.CONFIG_WCE])
      guest.setConfig(WRITEBACK, 1, value)
      guest.status = 7
      expect([guest.config(WRITEBACK, 1), isStable(disk, guest)]).toEqual([value, value === 0])
    }
  })

  it("BLK-20 a legacy driver that uses its queue before DRIVER_OK gets write-through", () => {
    const { disk, guest } = legacy([])
    expect(guest.status).toBe(3)
    expect(isStable(disk, guest)).toBe(true)
  })
})
