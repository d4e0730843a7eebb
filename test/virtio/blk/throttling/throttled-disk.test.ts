/** A disk whose guest is throttled: what waits, what passes it, and what happens to it when the device's life changes. */
import { describe, expect, it, vi } from "vitest"
import { Throttle, type ThrottleLimits, type VirtioBlkOptions } from "../../../../src/index.ts"
import { FakeDisk, settled } from "../../../harness/fake-disk.ts"
import { type Placed, RingGuest, type RingGuestOptions } from "../../../harness/guest.ts"
import { pattern, ranges, type Request } from "../../../harness/requests.ts"
import { F, OK, T, UNTOUCHED } from "../../../harness/words.ts"
import { ManualClock } from "./manual-clock.ts"

const SECTORS = 2048

/** The type is in the DOM's library only. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer; grow(pages: number): number },
}

interface Throttled {
  readonly clock: ManualClock
  readonly throttle: Throttle
  readonly disk: FakeDisk
  readonly guest: RingGuest
}

function throttled(limits: ThrottleLimits, options: Partial<RingGuestOptions> = {}, more: VirtioBlkOptions = {}): Throttled {
  const clock = new ManualClock()
  const throttle = new Throttle(limits, { clock })
  const disk = new FakeDisk({ size: 512 * SECTORS })
  disk.cache.set(pattern(0, SECTORS))
  const guest = new RingGuest({
    backing: disk,
    ...options,
    disk: { throttle, ...more, ...(options.queues !== undefined && { queues: options.queues }) },
  })
  return { clock, throttle, disk, guest }
}

function send(guest: RingGuest, requests: readonly Request[], ring = guest.ring): Placed[] {
  const placed = requests.map((request) => guest.place(request))
  guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true }, ring)), ring)
  guest.kick(ring)
  return placed
}

const done = (guest: RingGuest, placed: readonly Placed[]): number => placed.filter((one) => guest.reply(one, 0).status === OK).length
/** Sectors that are no neighbours. */
const reads = (count: number, first = 0): Request[] => Array.from(
  { length: count }, (_, at) => ({ type: T.IN, sector: first + 2 * at, in: 512 }),
)
const writes = (count: number, first = 0): Request[] =>
  Array.from({ length: count }, (_, at) => ({ type: T.OUT, sector: first + 2 * at, out: pattern(first + 2 * at, 1, 9) }))

describe("a throttled disk", () => {
  it("serves as many requests as its limit allows, each once, and keeps the rest in the ring", async () => {
    const { clock, guest, disk, throttle } = throttled({ requests: 100 })
    const placed = send(guest, writes(200))
    const heads = new Set<number>()
    const take = (): void => {
      for (const { id } of guest.takeUsed()) {
        expect(heads.has(id), `head ${id}`).toBe(false)
        heads.add(id)
      }
    }
    take()
    // A tenth of a second's worth, and the one that overdraws it.
    expect(heads.size).toBe(11)
    expect([throttle.waiting, guest.disk.device.virtio.inFlight.count]).toEqual([32, 0])
    for (let tenth = 1; tenth <= 18; tenth++) {
      await clock.pass(100)
      take()
      expect(heads.size, `after ${tenth} tenths`).toBe(11 + 10 * tenth)
    }
    await clock.pass(100)
    take()
    expect([heads.size, done(guest, placed), throttle.waiting, clock.alarms]).toEqual([200, 200, 0, 0])
    for (let at = 0; at < 200; at++) expect(disk.cache.subarray(1024 * at, 1024 * at + 512)).toEqual(pattern(2 * at, 1, 9))
  })

  it("counts the bytes of write-zeroes, but not those of discards", async () => {
    const features = [F.INDIRECT_DESC, F.DISCARD, F.WRITE_ZEROES, F.FLUSH]
    const { clock, guest } = throttled({ bytes: 51_200 }, { features })
    const placed = send(guest, [
      { type: T.DISCARD, out: ranges({ sector: 0, sectors: 1000 }) }, { type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 100 }) },
      { type: T.IN, sector: 500, in: 512 },
    ])
    expect(done(guest, placed)).toBe(2)
    await clock.pass(899)
    expect(done(guest, placed)).toBe(2)
    await clock.pass(2)
    expect(done(guest, placed)).toBe(3)
  })

  it("lets flushes and refused requests pass, which move no data", () => {
    const { guest } = throttled({ writeRequests: 10 })
    const placed = send(guest, [
      ...writes(4),
      { type: T.FLUSH },
      { type: T.GET_ID, in: 20 },
      { type: T.OUT, sector: SECTORS, out: pattern(0, 1) },
    ])
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([OK, OK, UNTOUCHED, UNTOUCHED, OK, OK, 1])
  })

  it("lets reads pass writes that wait, in one queue", async () => {
    const { clock, guest } = throttled({ writeRequests: 10 })
    const waiting = send(guest, writes(20))
    const read = send(guest, reads(100, 1000))
    expect([done(guest, waiting), done(guest, read)]).toEqual([2, 100])
    await clock.pass(1000)
    expect(done(guest, waiting)).toBe(12)
  })

  it("lets its queues take turns", async () => {
    const { clock, guest } = throttled({ requests: 100 }, { queues: 3 })
    const sent = guest.rings.map((ring, queue) => send(guest, writes(queue === 0 ? 200 : 50, 400 * queue), ring))
    await clock.pass(900)
    const counts = sent.map((placed) => done(guest, placed))
    // The first came when nobody waited.
    expect(counts.map((count, queue) => count - (queue === 0 ? 11 : 0))).toEqual([30, 30, 30])
  })

  it("shares its limit with the other disks of a group", async () => {
    const { clock, guest, throttle } = throttled({ requests: 100 })
    const other = new RingGuest({ backing: new FakeDisk(), disk: { throttle } })
    const [first, second] = [send(guest, writes(200)), send(other, reads(200))]
    await clock.pass(1000)
    const [ofFirst, ofSecond] = [done(guest, first), done(other, second)]
    expect(ofFirst + ofSecond).toBe(111)
    expect(Math.abs(ofFirst - 11 - ofSecond)).toBeLessThanOrEqual(1)
  })

  it("over a backing that answers later begins as many requests as its limit allows", async () => {
    const { clock, guest, disk } = throttled({ requests: 100 })
    disk.waits = () => true
    const placed = send(guest, reads(100))
    expect(disk.waiting).toHaveLength(11)
    await clock.pass(100)
    expect(disk.waiting).toHaveLength(21)
    while (disk.waiting.length > 0) await disk.finishNext()
    expect(done(guest, placed)).toBe(21)
  })

  it("in write-through mode makes writes stable that have waited", async () => {
    const { clock, guest, disk } = throttled({ requests: 10 }, { features: [F.INDIRECT_DESC] })
    const placed = send(guest, writes(4))
    await clock.pass(300)
    expect(done(guest, placed)).toBe(4)
    expect(disk.stable.subarray(3072, 3584)).toEqual(pattern(6, 1, 9))
  })

  it("gives its observer a time of arrival before the wait", async () => {
    const seen: number[] = []
    const { clock, guest } = throttled({ requests: 10 }, {}, { observer: ({ sector, arrived }) => void (arrived > 0 && seen.push(sector)) })
    send(guest, reads(5))
    await clock.pass(400)
    expect(seen).toEqual([0, 2, 4, 6, 8])
  })
})

describe("while requests wait", () => {
  it("ST-03 a reset forgets them: they reach neither guest nor disk, and the next life has its own", async () => {
    const { clock, guest, disk, throttle } = throttled({ requests: 10 })
    const old = send(guest, writes(100))
    guest.status = 0
    expect([throttle.waiting, clock.alarms, guest.disk.device.virtio.inFlight.heldBytes]).toEqual([0, 0, 0])
    guest.start()
    guest.top = 0x8_0000
    disk.log.length = 0
    const placed = send(guest, reads(2, 500))
    await clock.pass(200)
    expect([done(guest, placed), disk.takeNames()]).toEqual([2, ["read", "read"]])
    expect(done(guest, old)).toBe(2)
  })

  it("a reset of their queue forgets them, and those of other queues go on", async () => {
    const { clock, guest, throttle } = throttled({ requests: 10 }, { queues: 2 })
    const [first, second] = guest.rings.map((ring, queue) => send(guest, writes(10, 100 * queue), ring))
    expect(throttle.waiting).toBe(18)
    guest.modern.common.write(0x16, 2, 0)
    guest.modern.common.write(0x3a, 2, 1)
    expect(throttle.waiting).toBe(10)
    await clock.pass(1100)
    expect([done(guest, first ?? []), done(guest, second ?? []), clock.alarms]).toEqual([2, 10, 0])
  })

  it("an unplugged disk is idle at once, and leaves its group", async () => {
    const { clock, guest, throttle } = throttled({ requests: 10 })
    send(guest, writes(100))
    const device = guest.machine.detachDisk(guest.disk.slot)
    await device.whenIdle()
    expect([throttle.waiting, clock.alarms]).toEqual([0, 0])
  })

  it("a pause resolves at once and keeps them, and resume serves them", async () => {
    const { clock, guest, disk } = throttled({ requests: 10 })
    const placed = send(guest, writes(5))
    await guest.disk.device.pause()
    disk.log.length = 0
    await clock.pass(5000)
    expect([disk.log, clock.alarms]).toEqual([[], 0])
    guest.disk.device.resume()
    await settled()
    await clock.pass(500)
    expect(done(guest, placed)).toBe(5)
  })

  it("state is saved with them, and they are served where it is restored", async () => {
    const { clock, guest, disk } = throttled({ requests: 10 }, { ringSize: 64 })
    const placed = send(guest, writes(60))
    await clock.pass(1000)
    const before = done(guest, placed)
    await guest.disk.device.pause()
    const state: unknown = JSON.parse(JSON.stringify(guest.disk.function.saveState()))
    guest.machine.detachDisk(guest.disk.slot)
    const again = guest.machine.attachDisk(disk, { slot: guest.disk.slot, throttle: new Throttle({ requests: 50 }, { clock }) })
    again.function.restoreState(state)
    disk.log.length = 0
    again.device.resume()
    for (let round = 0; round < 8 && done(guest, placed) < 60; round++) await clock.pass(200)
    expect([before, done(guest, placed), disk.takeNames().length]).toEqual([12, 60, 48])
    expect(guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)).toEqual(Array.from({ length: 60 }, (_, head) => head))
  })

  it("they wait while bus mastering is off, and are served once it is on again", async () => {
    const { clock, guest, disk } = throttled({ requests: 10 })
    const placed = send(guest, writes(4))
    const command = guest.registers.config(4, 2)
    guest.machine.pci.function(guest.disk.slot)?.configWrite(4, 2, command & ~4)
    disk.log.length = 0
    await clock.pass(1000)
    expect([disk.log, clock.alarms]).toEqual([[], 0])
    guest.machine.pci.function(guest.disk.slot)?.configWrite(4, 2, command)
    await clock.pass(300)
    expect(done(guest, placed)).toBe(4)
  })

  it("they get no answer in a ring that breaks", async () => {
    const { clock, guest } = throttled({ requests: 10 })
    const placed = send(guest, reads(4))
    guest.publish([0xffff])
    guest.kick()
    await clock.pass(300)
    expect(done(guest, placed)).toBe(4)
    guest.kick()
    expect(guest.status & 0x40).toBe(0x40)
  })

  it("another backing serves them", async () => {
    const { clock, guest } = throttled({ requests: 10 })
    const placed = send(guest, writes(4))
    const other = new FakeDisk({ size: 512 * SECTORS })
    await guest.disk.device.changeBacking(other)
    await clock.pass(300)
    expect([done(guest, placed), other.log.length]).toEqual([4, 2])
  })

  it("new limits apply to them: of the throttle, of another one, and none", async () => {
    const { clock, guest, throttle } = throttled({ requests: 10 })
    const { device } = guest.disk
    const placed = send(guest, writes(200))
    throttle.setLimits({ requests: 100 })
    await clock.pass(500)
    expect(done(guest, placed)).toBeGreaterThan(45)
    expect(done(guest, placed)).toBeLessThan(65)
    const slow = new Throttle({ requests: 1 }, { clock })
    device.setThrottle(slow)
    expect([device.throttle === slow, throttle.waiting, slow.waiting > 0]).toEqual([true, 0, true])
    const before = done(guest, placed)
    await clock.pass(3000)
    expect(Math.abs(done(guest, placed) - before - 4)).toBeLessThanOrEqual(1)
    device.setThrottle(undefined)
    await settled()
    expect([done(guest, placed), slow.waiting, device.throttle, clock.alarms]).toEqual([200, 0, undefined, 0])
  })

  it("a pause keeps them, even if their throttle is taken away meanwhile", async () => {
    const { guest, disk } = throttled({ requests: 10 })
    const placed = send(guest, writes(40))
    await guest.disk.device.pause()
    disk.log.length = 0
    guest.disk.device.setThrottle(undefined)
    await settled()
    expect(disk.log).toEqual([])
    guest.disk.device.resume()
    await settled()
    expect(done(guest, placed)).toBe(40)
  })

  it("`setThrottle` limits a disk between two kicks, with the present levels of the throttle", () => {
    const guest = new RingGuest({ backing: new FakeDisk() })
    expect(done(guest, send(guest, writes(5)))).toBe(5)
    guest.disk.device.setThrottle({ writeRequests: 10 })
    const placed = send(guest, writes(5))
    expect([done(guest, placed), guest.disk.device.throttle?.waiting]).toEqual([2, 3])
    expect(() => guest.disk.device.setThrottle({ writeRequests: 0 })).toThrow(
      "VirtioBlk.setThrottle: writeRequests: perSecond must be more",
    )
    guest.machine.detachDisk(guest.disk.slot)
    expect(guest.disk.device.throttle?.waiting).toBe(0)
  })

  it("a batch goes on without waiting requests when RAM that does not begin at 0 is replaced in its middle", async () => {
    const memory = new WebAssembly.Memory({ initial: 256, maximum: 260 })
    const { clock, guest, disk } = throttled({ requests: 1000 }, { machine: { memory } })
    // Each call takes so long that the turn is over in the middle of the batch.
    let now = 1000
    const time = vi.spyOn(performance, "now").mockImplementation(() => now)
    disk.failing = () => void (now += 5)
    const placed = send(guest, reads(120))
    time.mockRestore()
    expect(guest.usedIdx()).toBeLessThan(100)
    const ram = guest.disk.device.virtio.memory
    const regionOf = ram.region.bind(ram)
    const regions = vi.spyOn(ram, "region").mockImplementation((address) => (address < 0x1000 ? undefined : regionOf(address)))
    memory.grow(1)
    await settled()
    await clock.pass(20)
    regions.mockRestore()
    expect([guest.status & 0x40, done(guest, placed)]).toEqual([0, 120])
  })

  it("memory is bounded, however many queues a guest fills", () => {
    const { guest, throttle } = throttled({ requests: 1 }, { queues: 40, ringSize: 256, machine: { ramSize: 64 << 20 } })
    for (const ring of guest.rings) send(guest, writes(200), ring)
    expect(throttle.waiting).toBe(40 * 32)
    expect(guest.disk.device.virtio.inFlight.heldBytes).toBeLessThan(40 * 32 * 1100)
  })
})
