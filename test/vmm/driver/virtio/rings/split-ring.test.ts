/** The driver's side of a split virtqueue over a model of the device's. */
import { describe, expect, it } from "vitest"
import { DriverError } from "../../../../../src/vmm/driver/errors.ts"
import { GuestRam } from "../../../../../src/vmm/driver/guest-ram.ts"
import type { Platform } from "../../../../../src/vmm/driver/platform.ts"
import type { Segment } from "../../../../../src/vmm/driver/virtio/rings/segments.ts"
import { indexPassed, SplitRing } from "../../../../../src/vmm/driver/virtio/rings/split-ring.ts"
import { Rng } from "../../../../support/rng.ts"
import { ramPlatform } from "../../ram-platform.ts"
import { passesByStepping, RingDevice, type SeenChain } from "./ring-device.ts"

const RAM = 2 << 20
/** Where tests keep indirect tables: above the rings. */
const TABLES = 0x18_0000

function makeRing(
  queueSize: number, options: { eventIdx?: boolean; inOrder?: boolean; platform?: Platform } = {},
): { ring: SplitRing; device: RingDevice } {
  const platform = options.platform ?? ramPlatform(RAM)
  const layout = { queueSize, descriptorTable: 0x1_0000, availableRing: 0x9_0002, usedRing: 0xb_0004 }
  const ring = new SplitRing(new GuestRam(platform), { layout, eventIdx: options.eventIdx ?? false, inOrder: options.inOrder ?? false })
  return { ring, device: new RingDevice(() => platform.ram, layout) }
}

/** `readable` readable and `writable` writable segments at addresses that nothing else uses. */
function segmentsOf(readable: number, writable: number, salt = 0): Segment[] {
  return Array.from(
    { length: readable + writable },
    (_, index) => ({ address: 0x10_0000_0000 + salt * 0x1_0000 + index * 64, length: 1 + index, writable: index >= readable }),
  )
}

function expectProtocolError(run: () => unknown, message: RegExp): void {
  let caught: unknown
  try {
    run()
  } catch (error) {
    caught = error
  }
  expect(caught).toBeInstanceOf(DriverError)
  expect(caught).toMatchObject({ code: "protocol" })
  expect(String(caught)).toMatch(message)
}

describe("event arithmetic", () => {
  it("VQ-26 indexPassed agrees with stepping from index to index, also across 65535", () => {
    const rng = new Rng(26)
    for (let round = 0; round < 20_000; round++) {
      const previous = rng.chance(0.5) ? 65536 - rng.between(1, 40) : rng.below(65536)
      const next = (previous + rng.below(41)) % 65536
      const event = (previous + rng.between(-50, 50) + 65536) % 65536
      expect(
        indexPassed(event, next, previous), `event ${event}, from ${previous} to ${next}`,
      ).toBe(passesByStepping(event, next, previous))
    }
  })

  it("VQ-25 an event of 0 is passed by the first buffer and by the 65537th, and by none between", () => {
    const passed: number[] = []
    for (let index = 0; index <= 65536; index++) if (indexPassed(0, (index + 1) % 65536, index % 65536)) passed.push(index)
    expect(passed).toEqual([0, 65536])
  })
})

describe("the driver's split ring", () => {
  it("VQ-09 VQ-18 a chain reaches the device as it was added: direct, indirect, and direct followed by indirect", () => {
    const { ring, device } = makeRing(8)
    const direct = ring.add(segmentsOf(2, 1))
    const indirect = ring.add(segmentsOf(1, 6, 1), { address: TABLES })
    const mixed = ring.add(segmentsOf(3, 2, 2), { address: TABLES + 0x100, direct: 2 })
    expect(device.take()).toEqual([])
    expect(ring.expose()).toBe(true)
    const chains = device.take()
    expect(chains.map(({ head, descriptors, segments }) => [head, descriptors.length, segments])).toEqual([
      [direct, 3, segmentsOf(2, 1)],
      [indirect, 1, segmentsOf(1, 6, 1)],
      [mixed, 3, segmentsOf(3, 2, 2)],
    ])
    expect(ring.freeDescriptors).toBe(8 - 3 - 1 - 3)
    expect(ring.inFlight).toBe(3)
    // The writable segments of the mixed chain have 4 and 5 bytes.
    device.give(mixed, 9)
    expect(ring.takeUsed()).toEqual({ id: mixed, length: 9 })
    expect(ring.takeUsed()).toBeUndefined()
    expect(ring.freeDescriptors).toBe(4)
  })

  it("VQ-04 VQ-22 random chains return right from small queues, far past index 65535 and in any order", () => {
    const rng = new Rng(4)
    for (const queueSize of [1, 2, 4, 16]) {
      const { ring, device } = makeRing(queueSize)
      const sent = new Map<number, Segment[]>()
      const busy = new Set<number>()
      const held: SeenChain[] = []
      const take = (): void => {
        for (const chain of device.take()) {
          const isAsSent = JSON.stringify(chain.segments) === JSON.stringify(sent.get(chain.head))
          if (!isAsSent || chain.descriptors.some((index) => busy.has(index))) {
            throw new Error(`chain ${JSON.stringify(chain)} is not what was added`)
          }
          for (const index of chain.descriptors) busy.add(index)
          held.push(chain)
        }
      }
      for (let returned = 0; returned < (queueSize === 4 ? 70_000 : 3_000); ) {
        const segments = segmentsOf(
          rng.between(0, Math.min(2, queueSize - 1)),
          rng.between(1, Math.max(1, Math.min(3, queueSize - 2))),
          rng.below(1000),
        )
        const direct = rng.below(segments.length)
        const table = rng.chance(0.3) ? { address: TABLES + 256 * ring.inFlight, direct } : undefined
        if ((table === undefined ? segments.length : direct + 1) <= ring.freeDescriptors && rng.chance(0.6)) {
          const head = ring.add(segments, table)
          if (sent.has(head)) throw new Error(`head ${head} is in flight already`)
          sent.set(head, segments)
          // The device reads a table at once: the next chain may use the same memory.
          ring.expose()
          take()
          continue
        }
        const chain = rng.shuffle(held).pop()
        if (chain === undefined) continue
        device.give(chain.head, 1)
        const used = ring.takeUsed()
        if (used?.id !== chain.head || used.length !== 1) throw new Error(`gave ${chain.head}, the driver took ${JSON.stringify(used)}`)
        for (const index of chain.descriptors) busy.delete(index)
        sent.delete(chain.head)
        returned++
        if (ring.inFlight !== sent.size || ring.freeDescriptors !== queueSize - busy.size) throw new Error("descriptors went astray")
      }
      for (const { head } of held) device.give(head, 0)
      while (ring.takeUsed() !== undefined) continue
      expect([ring.freeDescriptors, ring.inFlight]).toEqual([queueSize, 0])
    }
  })

  it("VQ-02 VQ-13 a queue of 32768 takes a chain of as many descriptors, and as many chains of one", () => {
    const { ring, device } = makeRing(32768)
    const head = ring.add(segmentsOf(1, 32767))
    ring.expose()
    expect(device.take()[0]?.segments.length).toBe(32768)
    device.give(head, 0)
    ring.takeUsed()
    for (let index = 0; index < 32768; index++) ring.add(segmentsOf(0, 1))
    expect(ring.freeDescriptors).toBe(0)
    ring.expose()
    expect(new Set(device.take().map((chain) => chain.head)).size).toBe(32768)
  })

  it("VQ-07 VQ-13 VQ-17 invalid chains are refused", () => {
    const { ring } = makeRing(4)
    expect(() => ring.add([])).toThrow(/at least one/)
    expect(() => ring.add(segmentsOf(3, 2))).toThrow(/longer than the queue/)
    expect(() => ring.add(segmentsOf(3, 2), { address: TABLES })).toThrow(/longer than the queue/)
    expect(() => ring.add([...segmentsOf(0, 1), ...segmentsOf(1, 0)])).toThrow(/follows a device-writable/)
    expect(() => ring.add([{ address: 0, length: 0, writable: true }, ...segmentsOf(1, 0)])).toThrow(/follows a device-writable/)
    const huge = { address: 0, length: 0xffff_ffff, writable: true }
    expect(() => ring.add([huge, { ...huge, length: 2 }])).toThrow(/2\^32/)
    expect(() => ring.add([huge, { ...huge, length: 1 }])).not.toThrow()
    expect(() => ring.add(segmentsOf(2, 1))).toThrow(/3 descriptors are needed, but 2 are free/)
    expect(() => ring.add(segmentsOf(1, 1), { address: TABLES, direct: 2 })).toThrow(/leave nothing/)
    expect(ring.freeDescriptors).toBe(2)
  })

  it("VQ-03 publish and reserve let a caller write a chain by hand", () => {
    const { ring, device } = makeRing(4)
    const indices = ring.reserve(2, 10)
    expect(ring.freeDescriptors).toBe(2)
    const [head = -1, last = -1] = indices
    ring.writeDescriptor(head, { address: 0x5000, length: 16, flags: 1, next: last })
    ring.writeDescriptor(last, { address: 0x6000, length: 10, flags: 2, next: 0xffff })
    expect(ring.publish(head)).toBe(true)
    expect(device.take()).toEqual([
      {
        head,
        descriptors: indices,
        segments: [{ address: 0x5000, length: 16, writable: false }, { address: 0x6000, length: 10, writable: true }],
      },
    ])
    device.give(head, 10)
    expect(ring.takeUsed()).toEqual({ id: head, length: 10 })
    expect(ring.freeDescriptors).toBe(4)
    expect(() => ring.reserve(5)).toThrow(/cannot reserve 5/)
  })

  it("VQ-21 an invalid used entry is an error: id out of range or not in flight, too long, too many", () => {
    const used = (act: (device: RingDevice, head: number, ring: SplitRing) => void): (() => unknown) => {
      const { ring, device } = makeRing(4)
      const head = ring.add([{ address: 0, length: 16, writable: false }, { address: 64, length: 513, writable: true }])
      ring.expose()
      act(device, head, ring)
      return () => ring.takeUsed()
    }
    expect(used((device, head) => device.give(head, 513))()).toEqual({ id: 0, length: 513 })
    expectProtocolError(used((device, head) => device.give(head, 514)), /used length 514 .* exceeds its 513/)
    expectProtocolError(used((device) => device.give(4, 0)), /used id 4/)
    expectProtocolError(used((device) => device.give(0xffff_ffff, 0)), /used id 4294967295/)
    expectProtocolError(used((device) => device.give(1, 0)), /used id 1 is not the head/)
    expectProtocolError(used((device) => device.setUsedIndex(2)), /2 ahead, but 1/)
    expectProtocolError(used((device) => device.setUsedIndex(65535)), /65535 ahead/)
    const twice = used((device, head, ring) => {
      ring.add(segmentsOf(1, 1))
      ring.expose()
      device.give(head, 1)
      device.give(head, 1)
      ring.takeUsed()
    })
    expectProtocolError(twice, /used id 0 is not the head/)
  })

  it("VQ-28 without EVENT_IDX the driver kicks unless used.flags says no, and whatever avail_event is", () => {
    const { ring, device } = makeRing(4)
    device.availableEvent = 0x7777
    ring.add(segmentsOf(1, 0))
    expect(ring.expose()).toBe(true)
    device.flags = 1
    ring.add(segmentsOf(1, 0))
    expect(ring.expose()).toBe(false)
    device.flags = 0
    // Nothing new: nothing to tell.
    expect(ring.expose()).toBe(false)
    ring.add(segmentsOf(1, 0))
    expect(ring.expose()).toBe(true)
  })

  it("VQ-28 with EVENT_IDX the driver kicks when avail_event is among the entries just exposed, and ignores used.flags", () => {
    const rng = new Rng(28)
    const { ring, device } = makeRing(16, { eventIdx: true })
    let kicks = 0
    for (let round = 0; round < 20_000; round++) {
      const before = device.taken
      const batch = rng.between(1, 16)
      for (let index = 0; index < batch; index++) ring.add(segmentsOf(1, 0))
      const event = (before + rng.between(-20, 20) + 65536) % 65536
      device.availableEvent = event
      device.flags = rng.below(2)
      const isWanted = passesByStepping(event, (before + batch) % 65536, before)
      if (ring.expose() !== isWanted) throw new Error(`avail_event ${event}, exposed ${batch} from ${before}: a kick should be ${isWanted}`)
      if (isWanted) kicks++
      for (const { head } of device.take()) device.give(head, 0)
      while (ring.takeUsed() !== undefined) continue
    }
    expect(kicks).toBeGreaterThan(1000)
  })

  it("VQ-24 VQ-25 notifications are asked for and suppressed by flags, or with EVENT_IDX by used_event while flags stay 0", () => {
    for (const eventIdx of [false, true]) {
      const { ring, device } = makeRing(4, { eventIdx })
      for (let index = 0; index < 3; index++) {
        ring.add(segmentsOf(1, 0))
        ring.expose()
        for (const { head } of device.take()) device.give(head, 0)
        ring.takeUsed()
      }
      ring.suppressNotifications()
      expect(device.availableFlags).toBe(eventIdx ? 0 : 1)
      if (eventIdx) expect(passesByStepping(device.usedEvent, 3 + 60_000, 3)).toBe(false)
      expect(ring.requestNotifications()).toBe(true)
      expect(device.availableFlags).toBe(0)
      if (eventIdx) expect(device.usedEvent).toBe(3)
    }
  })

  it("VQ-29 requesting notifications returns whether a buffer was used before the device could see the request", () => {
    for (const eventIdx of [false, true]) {
      const { ring, device } = makeRing(4, { eventIdx })
      ring.add(segmentsOf(1, 0))
      ring.expose()
      ring.suppressNotifications()
      for (const { head } of device.take()) device.give(head, 0)
      expect(ring.requestNotifications()).toBe(false)
      ring.takeUsed()
      expect(ring.requestNotifications()).toBe(true)
    }
  })

  it("VQ-27 VQ-32 clearing the ring starts it anew at index 0, and everything is free", () => {
    const { ring, device } = makeRing(4, { eventIdx: true })
    for (let index = 0; index < 500; index++) {
      ring.add(segmentsOf(1, 0))
      ring.expose()
      for (const { head } of device.take()) device.give(head, 0)
      ring.takeUsed()
    }
    ring.add(segmentsOf(2, 1))
    ring.expose()
    ring.clear()
    device.taken = device.used = 0
    expect([device.availableIndex, ring.usedIndex, ring.usedEvent, ring.freeDescriptors, ring.inFlight]).toEqual([0, 0, 0, 4, 0])
    const head = ring.add(segmentsOf(1, 0))
    // avail_event is 0 in fresh memory: the first buffer kicks.
    expect(ring.expose()).toBe(true)
    expect(device.take().map((chain) => chain.head)).toEqual([head])
  })
})

describe("rings in other kinds of RAM", () => {
  it("VQ-31 a ring works in a SharedArrayBuffer", () => {
    const { ring, device } = makeRing(4, { platform: ramPlatform(new Uint8Array(new SharedArrayBuffer(RAM))) })
    const head = ring.add(segmentsOf(1, 1))
    expect(ring.expose()).toBe(true)
    expect(device.take()[0]?.segments).toEqual(segmentsOf(1, 1))
    device.give(head, 2)
    expect(ring.takeUsed()).toEqual({ id: head, length: 2 })
  })

  it("a ring goes on when its RAM is replaced by a larger copy, as when a WebAssembly memory grows", () => {
    const platform = ramPlatform(RAM)
    const { ring, device } = makeRing(4, { platform })
    const first = ring.add(segmentsOf(1, 1))
    const grow = (): void => {
      const grown = new Uint8Array(platform.ram.length + 65536)
      grown.set(platform.ram)
      // What still looks at the old RAM now would read nonsense there.
      platform.ram.fill(0xee)
      platform.ram = grown
    }
    grow()
    expect(ring.expose()).toBe(true)
    expect(device.take()[0]?.segments).toEqual(segmentsOf(1, 1))
    grow()
    device.give(first, 2)
    expect(ring.takeUsed()).toEqual({ id: first, length: 2 })
    grow()
    const second = ring.add(segmentsOf(0, 1, 9), { address: TABLES })
    ring.expose()
    expect(device.take()).toMatchObject([{ head: second, segments: segmentsOf(0, 1, 9) }])
  })
})

describe("in order", () => {
  it("FT-15 descriptors are used in order, and the first follows the last", () => {
    const { ring, device } = makeRing(8, { inOrder: true })
    let expected = 0
    for (let round = 0; round < 40; round++) {
      const count = 1 + (round % 3)
      const heads = [ring.add(segmentsOf(1, count)), ring.add(segmentsOf(1, 0))]
      ring.expose()
      const chains = device.take()
      expect(chains.map(({ head }) => head)).toEqual(heads)
      for (const { descriptors } of chains) {
        for (const index of descriptors) expect([round, index]).toEqual([round, expected++ % 8])
      }
      for (const { head } of chains) device.give(head, 0)
      expect([ring.takeUsed()?.id, ring.takeUsed()?.id, ring.takeUsed(), ring.freeDescriptors]).toEqual([...heads, undefined, 8])
    }
  })

  it("VQ-23 a used element for several chains completes those before it with all their bytes", () => {
    const { ring, device } = makeRing(16, { inOrder: true })
    for (let round = 0; round < 5000; round++) {
      const heads = [2, 1, 3].map((writable) => ring.add(segmentsOf(1, writable)))
      ring.expose()
      device.take()
      const slot = device.used
      device.give(heads[1] ?? 0, 2, { index: false })
      device.setUsedIndex((slot + 2) % 65536)
      expect([ring.hasUsed, ring.takeUsed(), ring.hasUsed, ring.takeUsed(), ring.takeUsed()]).toEqual([
        true, { id: heads[0], length: 2 + 3 }, true, { id: heads[1], length: 2 }, undefined,
      ])
      device.give(heads[2] ?? 0, 0)
      expect([ring.takeUsed(), ring.inFlight]).toEqual([{ id: heads[2], length: 0 }, 0])
    }
  })

  it("VQ-23 an element for more chains than used.idx says, or for one that is not in flight, is a protocol error", () => {
    for (const wrong of [(heads: readonly number[]) => heads[1] ?? 0, () => 9, () => 0xffff_ffff]) {
      const { ring, device } = makeRing(16, { inOrder: true })
      const heads = [ring.add(segmentsOf(1, 1)), ring.add(segmentsOf(1, 1))]
      ring.expose()
      device.take()
      device.give(wrong(heads), 0)
      expectProtocolError(() => ring.takeUsed(), /used id \d+ is not that of one of the next 1 chains in flight/)
    }
  })
})
