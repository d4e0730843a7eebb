/** The driver's side of a packed virtqueue over a model of the device's. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../../../src/backing/memory.ts"
import { BlockDriver, findBlockDevices } from "../../../../../src/vmm/driver/block/driver.ts"
import { DriverError } from "../../../../../src/vmm/driver/errors.ts"
import { GuestRam } from "../../../../../src/vmm/driver/guest-ram.ts"
import type { Platform } from "../../../../../src/vmm/driver/platform.ts"
import { PackedRing } from "../../../../../src/vmm/driver/virtio/rings/packed-ring.ts"
import { RingCursor, slotPassed } from "../../../../../src/vmm/driver/virtio/rings/ring-cursor.ts"
import type { Segment } from "../../../../../src/vmm/driver/virtio/rings/segments.ts"
import { SplitRing } from "../../../../../src/vmm/driver/virtio/rings/split-ring.ts"
import { Machine } from "../../../../../src/vmm/machine.ts"
import { Rng } from "../../../../support/rng.ts"
import { ramPlatform } from "../../ram-platform.ts"
import { PackedRingDevice, placeAt, type SeenBuffer, wordAt } from "./packed-ring-device.ts"

const RAM = 2 << 20
/** Where tests keep indirect tables: above the rings. */
const TABLES = 0x18_0000

function makeRing(
  queueSize: number, options: { eventIdx?: boolean; inOrder?: boolean; platform?: Platform } = {},
): { ring: PackedRing; device: PackedRingDevice } {
  const platform = options.platform ?? ramPlatform(RAM)
  const layout = { queueSize, descriptorTable: 0x1_0010, availableRing: 0xa_0004, usedRing: 0xb_000c }
  const ring = new PackedRing(new GuestRam(platform), { layout, eventIdx: options.eventIdx ?? false, inOrder: options.inOrder ?? false })
  return { ring, device: new PackedRingDevice(() => platform.ram, layout) }
}

/** `readable` readable and `writable` writable segments at addresses that nothing else uses. */
function segmentsOf(readable: number, writable: number, salt = 0): Segment[] {
  return Array.from(
    { length: readable + writable },
    (_, index) => ({ address: 0x10_0000_0000 + salt * 0x1_0000 + index * 64, length: 1 + index, writable: index >= readable }),
  )
}

function protocolError(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(DriverError)
    expect(error).toMatchObject({ code: "protocol" })
    return String(error)
  }
  throw new Error("no error")
}

describe("event arithmetic", () => {
  it("PK-19 slotPassed agrees with stepping from slot to slot, for every ring of 1 to 8, over four laps", () => {
    for (let size = 1; size <= 8; size++) {
      for (let now = 0; now < 4 * size; now++) {
        for (let passed = 0; passed <= Math.min(size, now); passed++) {
          const words = Array.from({ length: passed }, (_, step) => wordAt(now - 1 - step, size))
          for (const event of Array.from({ length: 2 * size }, (_, at) => wordAt(at, size))) {
            const cursor = Object.assign(new RingCursor(size), placeAt(now, size))
            expect([size, now, passed, event, slotPassed(event, cursor, passed)]).toEqual([size, now, passed, event, words.includes(event)])
          }
        }
      }
    }
  })
})

describe("the driver's packed ring", () => {
  it("PK-09 PK-15 PK-16 a chain reaches the device as it was added: direct, and indirect", () => {
    const { ring, device } = makeRing(7)
    const direct = ring.add(segmentsOf(2, 1))
    const indirect = ring.add(segmentsOf(1, 6, 1), { address: TABLES })
    expect(device.take()).toEqual([])
    expect(ring.expose()).toBe(true)
    expect(device.take()).toEqual([
      { id: direct, slots: [0, 1, 2], segments: segmentsOf(2, 1) },
      { id: indirect, slots: [3], segments: segmentsOf(1, 6, 1) },
    ])
    expect([ring.freeDescriptors, ring.inFlight]).toEqual([3, 2])
    device.give({ id: indirect, slots: [3] }, 9)
    expect(ring.takeUsed()).toEqual({ id: indirect, length: 9 })
    expect(ring.takeUsed()).toBeUndefined()
    expect([ring.freeDescriptors, ring.inFlight]).toEqual([4, 1])
  })

  it("PK-05 the tail is written before the head is marked, and the first head shows several chains at once", () => {
    const { ring, device } = makeRing(8)
    for (let round = 0; round < 9; round++) {
      const at = ring.availableIndex % 0x8000
      const before = device.flags(at)
      ring.add(segmentsOf(1, 1))
      ring.add(segmentsOf(1, 2))
      expect([device.flags(at) & 0x8080, device.take()]).toEqual([round === 0 ? 0 : before & 0x8080, []])
      ring.expose()
      for (const buffer of device.take()) device.give(buffer, 0)
      expect([ring.takeUsed()?.length, ring.takeUsed()?.length, ring.freeDescriptors]).toEqual([0, 0, 8])
    }
  })

  it("PK-01 PK-07 PK-08 PK-11 random chains return right from rings of any size, in any order over many laps", () => {
    const rng = new Rng(4)
    for (const size of [1, 2, 3, 5, 16]) {
      const { ring, device } = makeRing(size)
      const sent = new Map<number, Segment[]>()
      const held: SeenBuffer[] = []
      for (let returned = 0; returned < 2000; ) {
        const segments = segmentsOf(
          rng.between(0, Math.min(2, size - 1)),
          rng.between(1, Math.max(1, Math.min(3, size - 2))),
          rng.below(1000),
        )
        const table = rng.chance(0.3) ? { address: TABLES + 256 * ring.inFlight } : undefined
        if ((table === undefined ? segments.length : 1) <= ring.freeDescriptors && rng.chance(0.6)) {
          const id = ring.add(segments, table)
          if (sent.has(id) || id >= size) throw new Error(`id ${id} is in flight already`)
          sent.set(id, segments)
          ring.expose()
          for (const buffer of device.take()) {
            if (JSON.stringify(buffer.segments) !== JSON.stringify(sent.get(buffer.id))) {
              throw new Error(`buffer ${buffer.id} is not what was added`)
            }
            held.push(buffer)
          }
          continue
        }
        const buffer = rng.shuffle(held).pop()
        if (buffer === undefined) continue
        device.give(buffer, 1)
        expect(ring.takeUsed()).toEqual({ id: buffer.id, length: 1 })
        sent.delete(buffer.id)
        returned++
        if (ring.inFlight !== sent.size) throw new Error("buffers went astray")
      }
      for (const buffer of held) device.give(buffer, 0)
      while (ring.takeUsed() !== undefined) continue
      expect([ring.freeDescriptors, ring.inFlight]).toEqual([size, 0])
    }
  })

  it("PK-01 a ring of 32768 takes a chain of as many descriptors, and as many chains of one", () => {
    const { ring, device } = makeRing(32768)
    ring.add(segmentsOf(1, 32767))
    ring.expose()
    const [whole] = device.take()
    if (whole === undefined) throw new Error("no chain")
    expect(whole.segments.length).toBe(32768)
    device.give(whole, 0)
    ring.takeUsed()
    for (let index = 0; index < 32768; index++) ring.add(segmentsOf(0, 1))
    expect(ring.freeDescriptors).toBe(0)
    ring.expose()
    expect(new Set(device.take().map(({ id }) => id)).size).toBe(32768)
  })

  it("PK-01 PK-02 invalid layouts are refused", () => {
    const layout = { queueSize: 4, descriptorTable: 0x1000, availableRing: 0x2000, usedRing: 0x2004 }
    const make = (change: Partial<typeof layout>) => () => new PackedRing(new GuestRam(ramPlatform(0x4000)), {
      layout: { ...layout, ...change },
    })
    expect(make({})).not.toThrow()
    for (const queueSize of [0, 32769, 1.5, -1]) expect(make({ queueSize })).toThrow(/is not a number from 1 to 32768/)
    expect(make({ descriptorTable: 0x1008 })).toThrow(/descriptor ring must start at a multiple of 16/)
    expect(make({ availableRing: 0x2002 })).toThrow(/driver event suppression must start at a multiple of 4/)
    expect(make({ usedRing: 0x4000 })).toThrow(/device event suppression at 16384 \(4 bytes\) is not in guest RAM/)
    expect(make({ usedRing: 0x1010 })).toThrow(/overlaps/)
  })

  it("PK-16 VQ-07 VQ-13 invalid chains are refused", () => {
    const { ring } = makeRing(4)
    expect(() => ring.add([])).toThrow(/at least one/)
    expect(() => ring.add(segmentsOf(3, 2), { address: TABLES })).toThrow(/longer than the queue/)
    expect(() => ring.add([...segmentsOf(0, 1), ...segmentsOf(1, 0)])).toThrow(/follows a device-writable/)
    expect(() => ring.add(segmentsOf(1, 1), { address: TABLES, direct: 1 })).toThrow(/direct or indirect, not both/)
    ring.add(segmentsOf(1, 1))
    expect(() => ring.add(segmentsOf(2, 1))).toThrow(/3 descriptors are needed, but 2 are free/)
    expect(ring.freeDescriptors).toBe(2)
  })

  it("PK-03 reserve, writeDescriptor and publish let a caller write a chain by hand", () => {
    const { ring, device } = makeRing(4)
    expect(ring.reserve(2, 10)).toEqual([0, 1])
    ring.writeDescriptor(0, { address: 0x5000, length: 16, flags: 1 })
    ring.writeDescriptor(1, { address: 0x6000, length: 10, flags: 2, next: 0xffff })
    expect(device.take()).toEqual([])
    expect(ring.publish(0)).toBe(true)
    expect(device.take()).toEqual([{
      id: 0, slots: [0, 1], segments: [{ address: 0x5000, length: 16, writable: false }, { address: 0x6000, length: 10, writable: true }],
    }])
    device.give({ id: 0, slots: [0, 1] }, 10)
    expect([ring.takeUsed(), ring.freeDescriptors]).toEqual([{ id: 0, length: 10 }, 4])
    expect(() => ring.reserve(5)).toThrow(/cannot reserve 5/)
    expect(() => ring.writeDescriptor(3, { address: 0, length: 0 })).toThrow(/slot 3 is not reserved/)
    expect(() => ring.publish(3)).toThrow(/no chain in slot 3/)
  })

  it("PK-12 PK-14 PK-24 an invalid used descriptor is an error; without WRITE its length means nothing, and NEXT never does", () => {
    const used = (id: number, length: number, flags = 2) => {
      const { ring, device } = makeRing(4)
      ring.add([{ address: 0, length: 16, writable: false }, { address: 64, length: 513, writable: true }])
      ring.expose()
      device.take()
      device.give({ id, slots: [0, 1] }, length, flags)
      return () => ring.takeUsed()
    }
    expect(used(0, 513)()).toEqual({ id: 0, length: 513 })
    expect(used(0, 513, 3)()).toEqual({ id: 0, length: 513 })
    expect(used(0, 0xffff_ffff, 1)()).toEqual({ id: 0, length: 0 })
    expect(protocolError(used(0, 514))).toMatch(/used length 514 of buffer 0 exceeds its 513/)
    for (const id of [1, 4, 0xffff]) expect(protocolError(used(id, 0))).toMatch(`used id ${id} is not the id of a chain in flight`)
  })

  it("PK-23 the value for NOTIFICATION_DATA is the next slot and its wrap counter", () => {
    const { ring, device } = makeRing(5)
    for (let count = 0; count < 40; count += 2) {
      expect(ring.availableIndex).toBe(wordAt(count, 5))
      ring.add(segmentsOf(1, 1))
      ring.expose()
      expect(ring.availableIndex).toBe(wordAt(count + 2, 5))
      for (const buffer of device.take()) device.give(buffer, 0)
      ring.takeUsed()
    }
  })
})

describe("notifications", () => {
  it("PK-17 PK-18 the driver kicks unless the device's flags say no; slot and wrap counter count with flags 2 and EVENT_IDX only", () => {
    for (const eventIdx of [false, true]) {
      for (const [flags, isWanted] of [[0, true], [1, false], [0xfffd, false], [2, !eventIdx], [3, true]] as const) {
        const { ring, device } = makeRing(4, { eventIdx })
        // The last slot of the lap before: not among those that are exposed.
        device.setDeviceEvents(flags, 3)
        ring.add(segmentsOf(1, 0))
        expect([eventIdx, flags, ring.expose()]).toEqual([eventIdx, flags, isWanted])
        // Nothing new: nothing to tell.
        expect(ring.expose()).toBe(false)
      }
    }
  })

  it("PK-18 PK-19 with EVENT_IDX the driver kicks when the device's slot is among those just exposed, over many laps", () => {
    const rng = new Rng(28)
    for (const size of [1, 3, 8, 100]) {
      const { ring, device } = makeRing(size, { eventIdx: true })
      let kicks = 0
      for (let round = 0; round < 2000; round++) {
        const before = device.taken
        const batch = rng.between(1, size)
        for (let index = 0; index < batch; index++) ring.add(segmentsOf(1, 0))
        const event = wordAt(rng.below(2 * size), size)
        device.setDeviceEvents(2, event)
        const isWanted = Array.from({ length: batch }, (_, at) => wordAt(before + at, size)).includes(event)
        if (ring.expose() !== isWanted) throw new Error(`event ${event}, exposed ${batch} from ${before}: a kick should be ${isWanted}`)
        if (isWanted) kicks++
        for (const buffer of device.take()) device.give(buffer, 0)
        while (ring.takeUsed() !== undefined) continue
      }
      expect(kicks).toBeGreaterThan(400)
    }
  })

  it("PK-17 PK-20 notifications are asked for by flags 0, or by slot, wrap counter and flags 2, and suppressed by flags 1", () => {
    for (const eventIdx of [false, true]) {
      const { ring, device } = makeRing(5, { eventIdx })
      for (let count = 1; count < 12; count++) {
        ring.add(segmentsOf(1, 0))
        ring.expose()
        ring.suppressNotifications()
        expect(device.driverEvents[1]).toBe(1)
        for (const buffer of device.take()) device.give(buffer, 0)
        // It has come back before the device could see the wish.
        expect(ring.requestNotifications()).toBe(false)
        ring.takeUsed()
        expect(ring.requestNotifications()).toBe(true)
        expect(device.driverEvents).toEqual(eventIdx ? [wordAt(count, 5), 2] : [0, 0])
      }
    }
  })

  it("PK-04 VQ-27 clearing the ring starts it anew: both wrap counters are 1, and everything is free", () => {
    const { ring, device } = makeRing(3, { eventIdx: true })
    for (let index = 0; index < 4; index++) {
      ring.add(segmentsOf(1, 0))
      ring.expose()
      for (const buffer of device.take()) device.give(buffer, 0)
      ring.takeUsed()
    }
    ring.add(segmentsOf(1, 1))
    ring.clear()
    device.taken = device.used = 0
    expect([ring.availableIndex, ring.lastUsed, ring.freeDescriptors, ring.inFlight, ring.hasUsed]).toEqual([0x8000, 0x8000, 3, 0, false])
    const id = ring.add(segmentsOf(1, 0))
    expect([ring.expose(), device.take().map((buffer) => buffer.id)]).toEqual([true, [id]])
  })

  it("VQ-31 a ring works in a SharedArrayBuffer, and goes on when its RAM is replaced by a larger copy", () => {
    const platform = ramPlatform(new Uint8Array(new SharedArrayBuffer(RAM)))
    const { ring, device } = makeRing(4, { platform })
    const id = ring.add(segmentsOf(1, 1))
    const grown = new Uint8Array(new SharedArrayBuffer(RAM + 65536))
    grown.set(platform.ram)
    platform.ram.fill(0xee)
    platform.ram = grown
    expect(ring.expose()).toBe(true)
    const [buffer] = device.take()
    expect(buffer?.segments).toEqual(segmentsOf(1, 1))
    device.give({ id, slots: [0, 1] }, 2)
    expect(ring.takeUsed()).toEqual({ id, length: 2 })
  })
})

describe("the choice of the ring", () => {
  it("FT-14 is packed if offered, with any size, and split if not or if preferred", async () => {
    const open = async (disk: object, options: object) => {
      const machine = new Machine({ ramSize: 4 << 20 })
      machine.attachDisk(new MemoryBacking({ size: 1 << 20 }), disk)
      const [device] = findBlockDevices(machine)
      if (device === undefined) throw new Error("no disk")
      const blk = await BlockDriver.open(device, options)
      await blk.write(3, new Uint8Array(512).fill(7))
      expect((await blk.read(3, 1))[0]).toBe(7)
      return blk.virtio.queues[0]?.ring
    }
    const offered = { withFeatures: ["RING_PACKED"] }
    const ring = await open(offered, { queueSize: 100 })
    expect([ring instanceof PackedRing, ring?.size]).toEqual([true, 100])
    expect(await open(offered, { features: { refuse: ["RING_PACKED"] } })).toBeInstanceOf(SplitRing)
    expect(await open({}, {})).toBeInstanceOf(SplitRing)
    expect(await open(offered, { transport: "legacy" })).toBeInstanceOf(SplitRing)
  })

  it("VQ-32 stays packed over a queue reset, with an empty ring", async () => {
    const machine = new Machine({ ramSize: 4 << 20 })
    machine.attachDisk(new MemoryBacking({ size: 1 << 20 }), { withFeatures: ["RING_PACKED"] })
    const [device] = findBlockDevices(machine)
    if (device === undefined) throw new Error("no disk")
    const blk = await BlockDriver.open(device, { queueSize: 5 })
    for (let round = 0; round < 7; round++) {
      await blk.write(round, new Uint8Array(512).fill(round))
      await blk.resetQueue(0)
      expect((await blk.read(round, 1))[0]).toBe(round)
    }
  })
})

describe("in order", () => {
  it("PK-21 the driver skips the slots of all chains that one used descriptor returns in the slot of the first", () => {
    const { ring, device } = makeRing(7, { inOrder: true })
    for (let round = 0; round < 100; round++) {
      const ids = [2, 1, 2].map((writable) => ring.add(segmentsOf(0, writable)))
      ring.expose()
      const buffers = device.take()
      const slots = buffers.slice(0, 2).flatMap((buffer) => buffer.slots)
      device.give({ id: ids[1] ?? 0, slots }, 1)
      expect([ring.takeUsed(), ring.hasUsed, ring.takeUsed(), ring.takeUsed()]).toEqual([
        { id: ids[0], length: 3 }, true, { id: ids[1], length: 1 }, undefined,
      ])
      device.give({ id: ids[2] ?? 0, slots: buffers[2]?.slots ?? [] }, 2)
      expect([ring.takeUsed(), ring.inFlight, ring.freeDescriptors]).toEqual([{ id: ids[2], length: 2 }, 0, 7])
    }
  })

  it("PK-21 an id that is not in flight is a protocol error", () => {
    const { ring, device } = makeRing(7, { inOrder: true })
    ring.add(segmentsOf(0, 1))
    ring.expose()
    device.give({ id: 6, slots: device.take()[0]?.slots ?? [] }, 0)
    expect(protocolError(() => ring.takeUsed())).toContain("used id 6 is not that of one of the next 1 chains in flight")
  })
})
