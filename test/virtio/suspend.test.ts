/** SUSPEND ([VIRTIO] 2.1 and 3.4): requests in flight end, then the device touches and tells nothing until it is resumed. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { Throttle } from "../../src/virtio/blk/throttling/throttle.ts"
import { eio, FakeDisk, settled } from "../harness/fake-disk.ts"
import { CONFIG_IRQ, type Placed, RingGuest, type RingGuestOptions } from "../harness/guest.ts"
import { pattern } from "../harness/requests.ts"
import { ManualClock } from "./blk/throttling/manual-clock.ts"
import { F, INDIRECT, NEXT, OK, STATUS, T } from "../harness/words.ts"

const { SUSPEND, NEEDS_RESET } = STATUS
const [UP, SUSPENDED] = [0x0f, 0x1b]
const FEATURES = [F.SUSPEND, F.INDIRECT_DESC, F.FLUSH, F.CONFIG_WCE]
const RINGS = [{ ring: "split", packed: false }, { ring: "packed", packed: true }] as const

function guestOf(packed = false, options: Partial<RingGuestOptions> = {}): { one: RingGuest; disk: FakeDisk } {
  const disk = new FakeDisk({ content: pattern(0, 2048) })
  const withFeatures = [...(packed ? (["RING_PACKED"] as const) : []), "SUSPEND"] as const
  return { one: new RingGuest({ backing: disk, packed, features: FEATURES, disk: { withFeatures }, ...options }), disk }
}

const read = (sector: number) => ({ type: T.IN, sector, in: 512 })

function send(one: RingGuest, requests: readonly Placed[]): void {
  for (const { pieces } of requests) one.publish([one.chain(pieces, { indirect: true })])
  one.kick()
}

describe("the bit", () => {
  it("FT-22 ST-15 without feature 43, or before the device is up, SUSPEND means nothing", () => {
    const { one } = guestOf(false, { features: [F.INDIRECT_DESC] })
    expect(one.offers(F.SUSPEND)).toBe(true)
    for (const status of [0x1f, 0x1b | 0x04, 0x10]) {
      one.status = status
      expect([status, one.status, one.read(1, 1).status]).toEqual([status, UP, OK])
    }
    const { modern } = guestOf().one
    modern.status = 0
    for (const status of [0x11, 0x13, 0x10]) modern.status = status
    expect(modern.status).toBe(0x03)
    modern.negotiate((1n << 32n) | (1n << 43n))
    modern.status = 0x1b
    expect(modern.status).toBe(0x0b)
    expect(new RingGuest({ backing: new FakeDisk() }).offers(F.SUSPEND)).toBe(false)
    expect(guestOf(false, { legacy: true }).one.offers(F.SUSPEND)).toBe(false)
  })

  it.each([0x1f, 0x1b, 0x10])("ST-01 ST-15 an idle device is suspended at once: %i is written, and 0x1b read", (written) => {
    const { one } = guestOf()
    one.read(1, 1)
    one.irqs()
    one.status = written
    expect([one.status, one.irqs()]).toEqual([SUSPENDED, []])
    // Only DRIVER_OK resumes it.
    one.status = 0x1b
    expect(one.status).toBe(SUSPENDED)
    one.status = 0x1f
    expect([one.status, one.read(1, 1).status]).toEqual([UP, OK])
    one.status = 0x1f
    one.status = 0x0f
    expect(one.status).toBe(UP)
  })
})

describe.each(RINGS)("with a $ring ring", ({ packed }) => {
  it("ST-15 requests in flight complete first; later ones wait for the resume, and need no kick", async () => {
    const { one, disk } = guestOf(packed)
    disk.waits = ({ name }) => name === "read"
    const before = [one.place(read(1)), one.place(read(9))]
    send(one, before)
    one.status = 0x1f
    expect(one.status).toBe(UP)
    const after = one.place(read(20))
    send(one, [after])
    disk.next().finish()
    await settled()
    expect([one.status, disk.waiting.length]).toEqual([UP, 1])
    disk.next().finish()
    await settled()
    expect([one.status, one.takeUsed().length, before.map((placed) => one.reply(placed, 513).status)]).toEqual([SUSPENDED, 2, [OK, OK]])
    expect(one.irqs().length).toBeGreaterThan(0)
    const ram = one.machine.ram.slice()
    one.kick()
    await settled()
    expect([Buffer.compare(ram, one.machine.ram), one.irqs(), disk.waiting.length]).toEqual([0, [], 0])
    disk.waits = () => false
    one.status = 0x0f
    await settled()
    expect([one.status, one.takeUsed().length, one.reply(after, 513).status]).toEqual([UP, 1, OK])
  })

  it("ST-15 the driver may take the suspension back before that", async () => {
    const { one, disk } = guestOf(packed)
    disk.waits = ({ name }) => name === "read"
    send(one, [one.place(read(1))])
    one.status = 0x1f
    send(one, [one.place(read(2))])
    expect(disk.waiting.length).toBe(1)
    one.status = 0x0f
    expect([one.status, disk.waiting.length]).toEqual([UP, 2])
    for (const call of disk.waiting.splice(0)) call.finish()
    await settled()
    expect([one.status, one.takeUsed().length]).toEqual([UP, 2])
  })

  it("ST-15 ST-02 a reset ends a suspension, done or about to be", async () => {
    const { one, disk } = guestOf(packed)
    disk.waits = ({ name }) => name === "read"
    for (const wait of [true, false]) {
      if (wait) send(one, [one.place(read(1))])
      one.status = 0x1f
      one.status = 0
      expect(one.status).toBe(0)
      for (const call of disk.waiting.splice(0)) call.finish()
      await settled()
      expect([one.status, one.start()]).toEqual([0, UP])
    }
    disk.waits = () => false
    expect((await one.runLong(read(3))).status).toBe(OK)
  })

  it("ST-15 a queue reset ends its requests in flight, which delay the suspension no longer", async () => {
    const { one, disk } = guestOf(packed, { features: [...FEATURES, F.RING_RESET] })
    disk.waits = ({ name }) => name === "read"
    send(one, [one.place(read(1))])
    one.status = 0x1f
    one.modern.setQueueRegister(0, 0x3a, 2, 1)
    expect(one.status).toBe(SUSPENDED)
    for (const call of disk.waiting.splice(0)) call.finish()
    await settled()
    expect(one.takeUsed()).toEqual([])
  })

  it("ST-15 a broken ring before that sets DEVICE_NEEDS_RESET, and not SUSPEND", async () => {
    const { one, disk } = guestOf(packed)
    disk.waits = ({ name }) => name === "read"
    send(one, [one.place(read(1))])
    const table = one.alloc(16, 16)
    one.writeEntry(table, 0, 0xffff_0000, 16, packed ? 0 : NEXT, 0)
    const head = packed ? one.packedRing.chainWithTable([], table, 16) : one.ring.takeDescriptor()
    if (!packed) one.ring.describe(head, table, 16, INDIRECT)
    one.publish([head])
    one.kick()
    expect(one.status & NEEDS_RESET).not.toBe(0)
    one.status = 0x1f
    await settled()
    expect(one.status & (SUSPEND | NEEDS_RESET)).toBe(NEEDS_RESET)
  })

  it("ST-15 a state that is saved while suspended, or about to be, goes on from there", async () => {
    const { one, disk } = guestOf(packed)
    const placed = one.place(read(1))
    one.status = 0x1f
    send(one, [placed])
    const suspended = JSON.parse(JSON.stringify(one.disk.function.saveState())) as unknown
    one.status = 0
    one.disk.function.restoreState(suspended, { image: "any" })
    one.disk.device.resume()
    expect([one.status, one.takeUsed()]).toEqual([SUSPENDED, []])
    one.status = 0x0f
    expect([one.status, one.takeUsed().length, one.reply(placed, 513).status]).toEqual([UP, 1, OK])
    disk.waits = ({ name }) => name === "read"
    const late = one.place(read(7))
    send(one, [late])
    one.status = 0x1f
    const about = JSON.parse(JSON.stringify(one.disk.function.saveState({ inFlight: "again" }))) as unknown
    one.status = 0
    for (const call of disk.waiting.splice(0)) call.finish()
    await settled()
    one.disk.function.restoreState(about, { image: "any" })
    expect(one.status).toBe(UP)
    one.disk.device.resume()
    expect([one.status, disk.waiting.length]).toEqual([UP, 1])
    disk.next().finish()
    await settled()
    expect([one.status, one.takeUsed().length, one.reply(late, 513).status]).toEqual([SUSPENDED, 1, OK])
  })
})

describe("inside a turn", () => {
  it("ST-15 an observer may suspend the device: its request completes before that, and none after", () => {
    let suspend = true
    const seen: number[] = []
    const { one } = guestOf(false, {
      disk: {
        withFeatures: ["SUSPEND"],
        observer: () => {
          if (suspend) one.status = 0x1f
          suspend = false
          seen.push(one.status, one.usedIdx())
        },
      },
    })
    const placed = one.place(read(1))
    send(one, [placed])
    expect([seen, one.status, one.takeUsed().length, one.reply(placed, 513).status]).toEqual([[SUSPENDED, 1], SUSPENDED, 1, OK])
    one.status = 0x0f
    expect(one.read(2, 1).status).toBe(OK)
  })
})

describe("the configuration space", () => {
  it("ST-15 CF-08 BLK-35 does not change while suspended, and one notification comes with the resume", () => {
    const backing = new MemoryBacking({ size: 1 << 20 })
    const one = new RingGuest({ backing, features: FEATURES, disk: { withFeatures: ["SUSPEND"] } })
    one.status = 0x1f
    const generation = one.modern.common.read(0x15, 1)
    backing.resize(1 << 21)
    one.disk.device.capacityChanged()
    one.setConfig(0x20, 1, 0)
    expect([one.capacity, one.config(0x20, 1), one.modern.common.read(0x15, 1), one.irqs()]).toEqual([2048, 1, generation, []])
    one.status = 0x1f
    expect([one.status, one.capacity, one.irqs()]).toEqual([UP, 4096, [CONFIG_IRQ]])
    expect(one.modern.common.read(0x15, 1)).not.toBe(generation)
    expect(one.read(4095, 1).status).toBe(OK)
    one.setConfig(0x20, 1, 0)
    expect(one.config(0x20, 1)).toBe(0)
  })

  it("ST-15 changes after a reset without a notification, also by another disk", async () => {
    const backing = new MemoryBacking({ size: 1 << 20 })
    const one = new RingGuest({ backing, features: FEATURES, disk: { withFeatures: ["SUSPEND"] } })
    one.status = 0x1f
    await one.disk.device.changeBacking(new MemoryBacking({ size: 1 << 22 }))
    expect([one.capacity, one.status, one.irqs()]).toEqual([2048, SUSPENDED, []])
    one.status = 0
    expect([one.capacity, one.irqs()]).toEqual([8192, []])
    one.start()
    expect(one.read(8191, 1).status).toBe(OK)
  })
})

describe("requests that wait for a throttle or a stopped disk are in flight", () => {
  it.each([false, true])("ST-15 they end before the device shows SUSPEND, held by the host or not: %s", async (isHeld) => {
    const clock = new ManualClock()
    const throttle = new Throttle({ requests: 1 }, { clock })
    const { one } = guestOf(false, { disk: { withFeatures: ["SUSPEND"], throttle } })
    const placed = [1, 2, 3].map((sector) => one.place(read(sector)))
    send(one, placed)
    expect([throttle.waiting > 0, one.usedIdx() < 3]).toEqual([true, true])
    one.status = 0x1f
    if (isHeld) {
      void one.disk.device.pause()
      clock.runTo(60_000)
      expect(one.status).toBe(UP)
      one.disk.device.resume()
    }
    expect(one.status).toBe(UP)
    clock.runTo(120_000)
    await settled()
    expect([one.status, placed.map((each) => one.reply(each, 0).status)]).toEqual([SUSPENDED, [OK, OK, OK]])
    const ram = one.machine.ram.slice()
    clock.runTo(180_000)
    await settled()
    expect(Buffer.compare(ram, one.machine.ram)).toBe(0)
  })

  it("ST-15 a stopped disk is suspended once it has gone on", async () => {
    const { one, disk } = guestOf(false, { disk: { withFeatures: ["SUSPEND"], readErrors: "stop" } })
    disk.failing = () => eio()
    const placed = one.place(read(1))
    send(one, [placed])
    one.status = 0x1f
    await settled()
    expect([one.status, one.disk.device.stoppedBy?.sector]).toEqual([UP, 1])
    disk.failing = () => undefined
    one.disk.device.resume()
    await settled()
    expect([one.status, one.reply(placed, 0).status]).toEqual([SUSPENDED, OK])
  })

  it("ST-15 they end first also when their throttle was taken away during a pause", async () => {
    const throttle = new Throttle({ requests: 1 }, { clock: new ManualClock() })
    const { one } = guestOf(false, { disk: { withFeatures: ["SUSPEND"], throttle } })
    const placed = [1, 3, 5].map((sector) => one.place(read(sector)))
    send(one, placed)
    void one.disk.device.pause()
    one.disk.device.setThrottle(undefined)
    one.status = 0x1f
    await settled()
    expect(one.status).toBe(UP)
    one.disk.device.resume()
    await settled()
    expect([one.status, ...placed.map((each) => one.reply(each, 0).status)]).toEqual([SUSPENDED, OK, OK, OK])
  })

  it.each([1 << 19, 1 << 21])("ST-15 BLK-35 another size after a restore while suspended shows at the resume, %i bytes", (size) => {
    const { one } = guestOf()
    one.status = 0x1f
    const state = JSON.parse(JSON.stringify(one.disk.function.saveState())) as unknown
    one.machine.detachDisk(one.disk.slot)
    const other = one.machine.attachDisk(new FakeDisk({ size }), { slot: one.disk.slot, withFeatures: ["SUSPEND"] })
    for (let moves = 0; moves < 2; moves++) {
      other.function.restoreState(moves === 0 ? state : JSON.parse(JSON.stringify(other.function.saveState())), { image: "any" })
      other.device.resume()
      expect([one.status, one.capacity, one.irqs()]).toEqual([SUSPENDED, 2048, []])
    }
    one.status = 0x0f
    expect([one.status, one.capacity, one.irqs().includes(CONFIG_IRQ)]).toEqual([UP, size / 512, true])
  })

  it("ST-15 a state that is saved while suspended holds a pending change of size, which shows after the restore", async () => {
    const { one } = guestOf()
    one.status = 0x1f
    await one.disk.device.changeBacking(new FakeDisk({ content: pattern(0, 2048, 5) }))
    for (let moves = 0; moves < 2; moves++) {
      const state = JSON.parse(JSON.stringify(one.disk.function.saveState())) as unknown
      one.status = 0
      one.disk.function.restoreState(state, { image: "any" })
    }
    one.disk.device.resume()
    expect([one.status, one.irqs()]).toEqual([SUSPENDED, []])
    one.status = 0x0f
    expect([one.status, one.irqs()]).toEqual([UP, [CONFIG_IRQ]])
  })
})
