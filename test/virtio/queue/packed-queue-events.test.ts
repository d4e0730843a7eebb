/** Packed rings: who tells whom, and when. Interrupts by the driver's event suppression, kicks by the device's. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { RamRegion } from "../../../src/virtio/guest-memory.ts"
import { eventAt, passesEvent } from "../../../src/virtio/queue/packed-events.ts"
import { PackedQueue } from "../../../src/virtio/queue/packed-queue.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import { FakeDisk } from "../../harness/fake-disk.ts"
import { RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { MmioGuest } from "../../harness/mmio.ts"
import { Cursor, PackedRing } from "../../harness/packed-ring.ts"
import { EVENT, F, T } from "../../harness/words.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const EVENT_FEATURES = [F.INDIRECT_DESC, F.EVENT_IDX]

function guest(options: Partial<RingGuestOptions> = {}): RingGuest {
  return new RingGuest({ backing: new MemoryBacking({ size: 1 << 20 }), packed: true, machine: { ramSize: 1 << 20 }, ...options })
}

/** Makes `count` FLUSHes available, each in one slot, or in `slots`. */
function flushes(one: RingGuest, count: number, slots = 1): void {
  const { pieces } = one.place({ type: T.FLUSH })
  const [head, status] = pieces
  if (head === undefined || status === undefined) throw new Error("two pieces")
  const table = one.table(pieces)
  const zeroes = Array.from({ length: Math.max(slots - 2, 0) }, () => ({ address: head.address, length: 0, writable: false }))
  for (let done = 0; done < count; done++) {
    one.publish([slots === 1 ? one.packedRing.chainWithTable([], table, 32) : one.chain([head, ...zeroes, status])])
  }
  one.top = 0x3000
}

function batch(one: RingGuest, count: number, slots = 1): number {
  flushes(one, count, slots)
  one.kick()
  one.takeUsed()
  return one.queueIrqs()
}

/** Whether one of the `passed` slots in front of `end` is slot `event` in the lap with its wrap counter: by a walk over them. */
function passesByWalking(event: number, size: number, end: { lap: number; slot: number }, passed: number): boolean {
  for (let step = 1; step <= passed; step++) {
    const place = end.lap * size + end.slot - step
    if (place < 0) return false
    if (event === eventWord(place % size, Math.floor(place / size))) return true
  }
  return false
}

/** Lap 0 has wrap counter 1. */
const eventWord = (slot: number, lap: number) => slot + (lap % 2 === 0 ? 0x8000 : 0)

describe("the arithmetic of events", () => {
  it("PK-19 the arithmetic agrees with a walk for every ring of 1 to 8, place in four laps, number of slots passed and event", () => {
    let [yes, no] = [0, 0]
    for (let size = 1; size <= 8; size++) {
      for (let place = 0; place < 4 * size; place++) {
        const end = { lap: Math.floor(place / size), slot: place % size }
        for (let passed = 0; passed <= Math.min(size, place); passed++) {
          for (let slot = 0; slot < size; slot++) {
            for (const wrap of [true, false]) {
              const event = eventAt(slot, wrap)
              const expected = passesByWalking(event, size, end, passed)
              expected ? yes++ : no++
              const found = passesEvent(event, { size, slot: end.slot, wrap: end.lap % 2 === 0, passed })
              if (found !== expected) throw new Error(`N ${size}, at ${place}, passed ${passed}, event ${slot} wrap ${wrap}: ${found}`)
            }
          }
        }
      }
    }
    expect(yes).toBeGreaterThan(500)
    expect(no).toBeGreaterThan(5000)
  })

  it("PK-19 the arithmetic agrees with the formula of the specification in 16 bits", () => {
    const formula = (event: number, size: number, { slot, wrap, passed }: { slot: number; wrap: boolean; passed: number }) => {
      const off = (event % 0x8000) - (event >= 0x8000 !== wrap ? size : 0)
      const before = slot - passed
      // "old" is a slot; the position has wrapped since if that lies in the lap before.
      const old = before < 0 ? before + size - size : before
      const distance = (value: number) => ((value % 65536) + 65536) % 65536
      return distance(slot - off - 1) < distance(slot - old)
    }
    for (const size of [1, 2, 3, 7, 8, 100, 32768]) {
      const rng = new Rng(size)
      for (let round = 0; round < 4000; round++) {
        const progress = { size, slot: rng.below(size), wrap: rng.chance(0.5), passed: rng.between(1, size) }
        const event = eventAt(rng.below(size), rng.chance(0.5))
        expect([round, passesEvent(event, progress)]).toEqual([round, formula(event, size, progress)])
      }
    }
  })

  it.each([1, 2, 3, 5, 8])("PK-18 PK-19 in a ring of %i exactly the batches that pass the event interrupt", (size) => {
    const seed = seedFromEnvironment(20261102)
    const rng = new Rng(seed)
    const one = guest({ features: EVENT_FEATURES, ringSize: size })
    const cursor = new Cursor(size)
    let place = 0
    let wanted = 0
    for (let round = 0; round < 400; round++) {
      const slots = rng.chance(0.3) ? rng.between(1, size) : 1
      const count = rng.between(1, Math.floor(size / slots))
      const passed = slots * count
      const event = eventWord(rng.below(size), rng.below(2))
      one.packedRing.setEvents(EVENT.DESC, event)
      place += passed
      cursor.advance(passed)
      const expected = passesByWalking(event, size, { lap: Math.floor(place / size), slot: cursor.slot }, passed)
      const irqs = batch(one, count, slots)
      if (irqs !== (expected ? 1 : 0)) {
        throw new Error(`seed ${seed}, round ${round}: event ${event}, now at ${place}, passed ${passed}: ${irqs}`)
      }
      if (expected) wanted++
    }
    expect(wanted).toBeGreaterThan(20)
  })
})

describe("used buffer notifications", () => {
  it.each([
    [EVENT_FEATURES], [[F.INDIRECT_DESC]],
  ])("PK-17 PK-18 FT-12 flags 0 ask for an interrupt with each batch, and 1 for none: features %j", (features) => {
    const one = guest({ features, ringSize: 8 })
    // The reserved bits mean nothing, and neither does the descriptor.
    for (const [flags, irqs] of [[0, 1], [1, 0], [0xfffc, 1], [0xfffd, 0], [0, 1]] as const) {
      for (const word of [0, 0x8000, 0x7fff, 0xffff]) {
        one.packedRing.setEvents(flags, word)
        expect(batch(one, 3)).toBe(irqs)
      }
    }
  })

  it("PK-17 PK-18 FT-12 flags 2 without EVENT_IDX, and the reserved 3, give an interrupt each time", () => {
    for (const [features, flags] of [[[F.INDIRECT_DESC], 2], [[F.INDIRECT_DESC], 3], [EVENT_FEATURES, 3]] as const) {
      const one = guest({ features, ringSize: 8 })
      for (let round = 0; round < 20; round++) {
        one.packedRing.setEvents(flags, 0x7000)
        expect(batch(one, 1)).toBe(1)
      }
    }
  })

  it("PK-18 flags 2 give an interrupt at the named slot and lap: for slot 5 and wrap counter 0 once in two laps", () => {
    const one = guest({ features: EVENT_FEATURES, ringSize: 8 })
    one.packedRing.setEvents(EVENT.DESC, 5)
    const interrupted: number[] = []
    for (let done = 0; done < 32; done++) if (batch(one, 1) > 0) interrupted.push(done)
    // Slot 5 of the second lap, and of the fourth.
    expect(interrupted).toEqual([13, 29])
  })

  it("PK-18 a chain that covers the named slot interrupts", () => {
    const one = guest({ features: EVENT_FEATURES, ringSize: 8 })
    one.packedRing.setEvents(EVENT.DESC, 0x8001)
    expect([batch(one, 1, 3), batch(one, 1, 3)]).toEqual([1, 0])
  })
})

describe("kicks", () => {
  it("PK-20 the device asks for a kick in the Device Area by the next slot and flags 2 with EVENT_IDX, and by 0 without", () => {
    for (const features of [EVENT_FEATURES, [F.INDIRECT_DESC]]) {
      const one = guest({ features, ringSize: 5 })
      for (let round = 0; round < 40; round++) {
        batch(one, 1 + (round % 4))
        const { word, flags } = one.packedRing.deviceEvents
        const eventIdx = features.length === 2
        expect([word, flags]).toEqual(eventIdx ? [one.packedRing.driver.word, EVENT.DESC] : [0, EVENT.ENABLE])
      }
    }
  })

  it("PK-20 the driver kicks for the first chain, whatever an earlier driver has left in the Device Area", () => {
    const one = guest({ features: [F.INDIRECT_DESC], ringSize: 4 })
    one.registers.negotiate((1n << 32n) | (1n << 34n) | (1n << 28n))
    const ring = one.ring as PackedRing
    ring.clear()
    one.data.setUint32(ring.used, 0xffff_ffff, true)
    one.modern.enable(0, ring)
    one.status = 0x0f
    one.kick()
    expect(ring.deviceEvents.flags).toBe(EVENT.ENABLE)
  })

  it("PK-20 slot and lap are stored before flags 2, which make them valid", () => {
    const order: string[] = []
    const region = new RamRegion(0, new Uint8Array(0x1000))
    const { data } = region
    const store = data.setUint16.bind(data)
    data.setUint16 = (at, value) => {
      order.push(`${at}: ${value}`)
      store(at, value, true)
    }
    const areas = { size: 4, descriptorTable: 0, availRing: 0x100, usedRing: 0x200 }
    const features = { indirect: false, eventIdx: true, notifyOnEmpty: false, packed: true, inOrder: false }
    const queue = new PackedQueue({ generation: 0, region: () => region }, areas, features)
    queue.initialiseFlags()
    queue.enableKicks()
    queue.enableKicks()
    expect(order).toEqual([`${0x200}: ${0x8000}`, `${0x202}: 2`, `${0x200}: ${0x8000}`])
  })

  it("PK-20 VQ-29 a chain that is made available while the device is about to ask for kicks is served without one", () => {
    const disk = new FakeDisk()
    const one = guest({ backing: disk, features: EVENT_FEATURES, ringSize: 8 })
    // The interrupt of the first chain makes the driver add another, and not kick: the device has not asked for it yet.
    let added = 0
    one.machine.interrupts.subscribe(() => {
      if (added++ < 5) flushes(one, 1)
    })
    flushes(one, 1)
    one.kick()
    expect([one.usedIdx(), one.packedRing.deviceEvents]).toEqual([6, { word: 0x8006, flags: EVENT.DESC }])
  })

  it("PK-20 a driver that kicks only on request leaves no chain behind over many laps", () => {
    const rng = new Rng(seedFromEnvironment(20261103))
    const one = guest({ features: EVENT_FEATURES, ringSize: 7 })
    let kicks = 0
    for (let round = 0; round < 500; round++) {
      const count = rng.between(1, 7)
      const { word, flags } = one.packedRing.deviceEvents
      const before = one.packedRing.driver.slot
      flushes(one, count)
      const { slot, wrap } = one.packedRing.driver
      expect(before).toBeLessThan(7)
      if (round === 0 || (flags === EVENT.DESC && passesEvent(word, { size: 7, slot, wrap, passed: count }))) {
        one.kick()
        kicks++
      }
      expect(one.takeUsed()).toHaveLength(count)
    }
    expect(kicks).toBe(500)
  })
})

describe("over MMIO", () => {
  it("PK-23 a kick serves the ring, whether slot and wrap counter above the queue's index are right or wrong", () => {
    const machine = new Machine({ ramSize: 1 << 20 })
    const disk = machine.attachMmioDisk(new MemoryBacking({ size: 1 << 20 }), { withFeatures: ["RING_PACKED"] })
    const guest = new MmioGuest(machine, disk)
    const ring = new PackedRing(machine, { size: 5, place: { desc: 0x2000, avail: 0x3000, used: 0x3004 } }).clear()
    guest.start([ring], (1n << 34n) | (1n << 28n))
    for (let round = 0; round < 40; round++) {
      const request = ring.prepare(T.IN, round, 512)
      ring.publish(request.head)
      const { word } = ring.driver
      // Where it would be after the chain; where it was; and nowhere.
      machine.mmioWrite(disk.address + 0x50, 4, ([word, 0x8000, 0xffff][round % 3] ?? 0) * 0x1_0000)
      expect([ring.takeUsed(), ring.status(request)]).toEqual([[{ id: request.head, length: 513 }], 0])
    }
  })
})

describe("a reset", () => {
  it("VQ-27 VQ-32 PK-04 a reset of the queue or the device sets both wrap counters to 1, and slot 0 of lap 1 interrupts", async () => {
    for (const what of ["queue", "device"]) {
      const one = guest({ features: [...EVENT_FEATURES, F.RING_RESET], ringSize: 5 })
      for (let done = 0; done < 7; done++) batch(one, 1)
      if (what === "device") one.start([...EVENT_FEATURES, F.RING_RESET])
      else {
        one.modern.setQueueRegister(0, 0x3a, 2, 1)
        one.ring = one.openRing(0)
      }
      expect(one.packedRing.driver.word).toBe(0x8000)
      one.packedRing.setEvents(EVENT.DESC, 0x8000)
      expect([batch(one, 1), batch(one, 1)]).toEqual([1, 0])
    }
  })

  it("VQ-32 requests in flight do not reach the guest after a reset", async () => {
    const disk = new FakeDisk()
    disk.waits = () => true
    const one = guest({ backing: disk, ringSize: 8, features: [F.INDIRECT_DESC, F.RING_RESET] })
    const placed = one.place({ type: T.IN, in: 512 })
    one.publish([one.chain(placed.pieces)])
    one.kick()
    one.modern.setQueueRegister(0, 0x3a, 2, 1)
    const before = one.machine.ram.slice()
    await disk.finishNext()
    expect(Buffer.compare(one.machine.ram, before)).toBe(0)
  })
})
