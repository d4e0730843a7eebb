/**
 * A virtio function as the bus shows it ([VIRTIO] 4.1.2 to 4.1.4): identity, capabilities, where the structures are, the registers of each.
 */
import { beforeEach, describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { type AttachDiskOptions, Machine } from "../../../src/vmm/machine.ts"
import { markedDisk } from "../../harness/marked-disk.ts"
import { PciGuest, type Structure, type Width } from "../../harness/pci.ts"
import { ModernGuest } from "../../harness/registers.ts"
import { Ring } from "../../harness/ring.ts"
import { CAP, COMMON, F, LEGACY, mask, NO_VECTOR, T, UNTOUCHED, UP, VERSION_1 } from "../../harness/words.ts"

const SECTOR = 512
const VARIANTS = [
  ["transitional", {}],
  ["modern", { interface: "modern" }],
  ["modern registers in I/O space", { modernBar: "io" }],
  ["many queues", { queues: 37 }],
  ["many queues, registers in I/O space", { queues: 37, modernBar: "io" }],
  ["no MSI-X", { vectors: 0 }],
] as const satisfies readonly (readonly [string, AttachDiskOptions])[]

let vm: Machine
beforeEach(() => {
  vm = new Machine({ ramSize: 1 << 20 })
})

function attach(options: AttachDiskOptions = {}): ModernGuest {
  return new ModernGuest(vm, vm.attachDisk(markedDisk(), options).slot)
}

/** [PCI] 6.2.5.1: the BAR's size, by writing all ones. */
function barSize(guest: PciGuest, index: number): number {
  const { command } = guest
  guest.command = command & ~3
  const before = guest.config(0x10 + 4 * index, 4)
  guest.setConfig(0x10 + 4 * index, 4, 0xffff_ffff)
  const size = 2 ** 32 - ((guest.config(0x10 + 4 * index, 4) & ((before & 1) !== 0 ? ~3 : ~15)) >>> 0)
  guest.setConfig(0x10 + 4 * index, 4, before)
  guest.command = command
  return size
}

describe("identity", () => {
  it("PCI-01 PCI-03 PCI-04 a transitional device has id 0x1001, revision 0, subsystem 2, mass storage, INTA#", () => {
    const guest = attach()
    expect([
      guest.config(0x00, 2),
      guest.config(0x02, 2),
      guest.config(0x08, 1),
      guest.config(0x2e, 2),
      guest.config(0x2c, 2),
    ]).toEqual([0x1af4, 0x1001, 0, 2, 0x1af4])
    expect([
      guest.config(0x09, 1),
      guest.config(0x0a, 1),
      guest.config(0x0b, 1),
      guest.config(0x3d, 1),
      guest.config(0x0e, 1),
    ]).toEqual([0, 0, 1, 1, 0])
  })

  it("PCI-01 PCI-02 PCI-35 a modern device has id 0x1042, revision from 1, subsystem from 0x40, no BAR 0 in I/O space", () => {
    const guest = attach({ interface: "modern" })
    expect([guest.config(0x00, 2), guest.config(0x02, 2)]).toEqual([0x1af4, 0x1042])
    expect(guest.config(0x08, 1)).toBeGreaterThanOrEqual(1)
    expect(guest.config(0x2e, 2)).toBeGreaterThanOrEqual(0x40)
    guest.setConfig(0x10, 4, 0xffff_ffff)
    expect(guest.config(0x10, 4)).toBe(0)
  })

  it("PCI-01 a legacy device has the transitional id, and no virtio capability", () => {
    const guest = new PciGuest(vm, vm.attachDisk(new MemoryBacking({ size: SECTOR }), { interface: "legacy" }).slot)
    expect([guest.config(0x02, 2), guest.config(0x08, 1), guest.structures().length]).toEqual([0x1001, 0, 0])
  })
})

describe("capabilities", () => {
  it.each(VARIANTS)("PCI-05 PCI-07 PCI-08 PCI-34 %s: the list ends, in range, and has each structure", (_, options) => {
    const guest = attach(options)
    expect(guest.config(0x06, 2) & 0x10).toBe(0x10)
    const list = guest.capabilities()
    expect(new Set(list.map(({ at }) => at)).size).toBe(list.length)
    for (const { at, id } of list) {
      expect(at % 4).toBe(0)
      expect(at).toBeGreaterThanOrEqual(0x40)
      expect([0x09, 0x11]).toContain(id)
      expect(at + (id === 0x11 ? 12 : guest.config(at + 2, 1))).toBeLessThanOrEqual(0x100)
    }
    expect(list.length).toBeLessThan(10)
    expect(guest.structures().map(({ type }) => type).sort()).toEqual([1, 2, 3, 4, 5])
    for (const { type, bar } of guest.structures()) expect([type, bar < 6]).toEqual([type, true])
  })

  it.each(VARIANTS)("PCI-06 PCI-09 PCI-10 PCI-15 PCI-21 %s: structures are aligned, have room, and do not overlap", (_, options) => {
    const guest = attach(options)
    const queues = guest.common.read(COMMON.numQueues, 2)
    const capLengths: Readonly<Record<number, number>> = {
      [CAP.COMMON]: 16, [CAP.NOTIFY]: 20, [CAP.ISR]: 16, [CAP.DEVICE]: 16, [CAP.PCI]: 20,
    }
    for (const { at, type, capLength, bar, offset, length } of guest.structures()) {
      expect([type, capLength]).toEqual([type, capLengths[type]])
      // id and padding.
      expect([guest.config(at + 5, 1), guest.config(at + 6, 2)]).toEqual([0, 0])
      if (type !== CAP.PCI) expect([type, offset + length <= barSize(guest, bar)]).toEqual([type, true])
    }
    expect([guest.common.offset % 4, guest.device.offset % 4, guest.notify.offset % 2]).toEqual([0, 0, 0])
    expect(guest.common.length).toBeGreaterThanOrEqual(0x40)
    expect(guest.device.length).toBeGreaterThanOrEqual(0x40)
    expect(guest.isr.length).toBeGreaterThanOrEqual(1)
    expect([0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]).toContain(guest.multiplier)
    for (let queue = 0; queue < queues; queue++) {
      expect(guest.notify.length).toBeGreaterThanOrEqual(guest.queueRegister(queue, COMMON.queueNotifyOff, 2) * guest.multiplier + 2)
    }
    // The structures do not overlap.
    const places = [guest.common, guest.notify, guest.isr, guest.device].sort((a, b) => a.offset - b.offset)
    for (const [index, { offset, length }] of places.entries()) {
      expect(offset + length).toBeLessThanOrEqual(places[index + 1]?.offset ?? Infinity)
    }
  })

  it("PCI-11 capabilities are read-only, except for bar, offset, length and data of the window", () => {
    const guest = attach()
    const bytes = (): number[] => Array.from({ length: 0xc0 }, (_, at) => guest.config(0x40 + at, 1))
    const window = guest.structure(CAP.PCI)
    const before = bytes()
    const writable = new Set([window.at + 4, ...Array.from({ length: 12 }, (_, at) => window.at + 8 + at)])
    const control = guest.msixAt + 3
    for (const width of [1, 2, 4] as const) {
      for (let at = 0x40; at < 0x100; at += width) guest.setConfig(at, width, 0xffff_ffff)
      for (const [index, byte] of bytes().entries()) {
        const at = 0x40 + index
        if (at !== control) expect([at, byte]).toEqual([at, writable.has(at) ? 0xff : before[index]])
      }
      expect(guest.config(control, 1)).toBe(0xc0 | (before[control - 0x40] ?? 0))
    }
  })

  it("PCI-12 each type comes once, so that no order of preference matters", () => {
    const types = attach().structures().map(({ type }) => type)
    expect(new Set(types).size).toBe(types.length)
  })

  it("PCI-31 there is one vector for each queue and one more, or as many as requested up to 2048; with 0 there is no MSI-X", () => {
    const vectors = (options: AttachDiskOptions): number => {
      const guest = attach(options)
      return (guest.config(guest.msixAt + 2, 2) & 0x7ff) + 1
    }
    expect([vectors({}), vectors({ queues: 4 }), vectors({ vectors: 1 }), vectors({ vectors: 2048 })]).toEqual([2, 5, 1, 2048])
    expect(attach({ vectors: 0 }).capabilities().some(({ id }) => id === 0x11)).toBe(false)
    expect(() => attach({ vectors: 2049 })).toThrow(RangeError)
  })

  it.each([
    [{ interface: "legcay" }, 'interface must be "transitional", "modern" or "legacy", not the string "legcay"; did you mean "legacy"?'],
    [{ modernBar: "mem" }, 'modernBar must be "memory" or "io", not the string "mem"; did you mean "memory"?'],
  ])("%o is refused", (options, reason) => {
    expect(() => attach(options as AttachDiskOptions)).toThrow(new TypeError(`Machine.attachDisk: ${reason}`))
  })
})

describe("common configuration", () => {
  it("PCI-13 PCI-14 PCI-15 PCI-19 each register has its offset and width, and is writable or not, as specified", () => {
    const guest = attach({ queues: 3 })
    guest.status = 0x03
    guest.acceptWord(1, 1 + 2 ** (F.RING_RESET - 32))
    guest.common.write(COMMON.queueSelect, 2, 1)
    const table: readonly [keyof typeof COMMON, Width, initial: number, written: number, then: number][] = [
      ["deviceFeatureSelect", 4, 0, 0x8765_4321, 0x8765_4321],
      ["deviceFeature", 4, 0, 0xffff_ffff, 0],
      ["driverFeatureSelect", 4, 1, 0, 0],
      ["driverFeature", 4, 0, 0x8000_0001, 0x8000_0001],
      ["configVector", 2, NO_VECTOR, 2, 2],
      ["numQueues", 2, 3, 9, 3],
      ["generation", 1, 0, 9, 0],
      ["queueSelect", 2, 1, 2, 2],
      ["queueSize", 2, 256, 16, 16],
      ["queueVector", 2, NO_VECTOR, 3, 3],
      ["queueNotifyOff", 2, 2, 9, 2],
      ["queueDesc", 4, 0, 0xffff_fff0, 0xffff_fff0],
      ["queueDriver", 4, 0, 0xffff_fffe, 0xffff_fffe],
      ["queueDevice", 4, 0, 0xffff_fffc, 0xffff_fffc],
      ["queueNotifConfigData", 2, 0, 9, 0],
      ["adminQueueIndex", 2, 0, 9, 0],
      ["adminQueueNum", 2, 0, 9, 0],
      ["queueReset", 2, 0, 0, 0],
      ["queueEnable", 2, 0, 1, 1],
      ["status", 1, 0x03, 0x07, 0x07],
    ]
    expect(new Set(table.map(([name]) => name))).toEqual(new Set(Object.keys(COMMON)))
    for (const [name, width, initial, written, then] of table) {
      const offset = COMMON[name]
      expect([name, guest.common.read(offset, width)]).toEqual([name, initial])
      guest.common.write(offset, width, written)
      expect([name, guest.common.read(offset, width)]).toEqual([name, then])
    }
    // Nothing but what was written has changed, and the other queues are as they were.
    expect([
      guest.queueRegister(0, COMMON.queueSize, 2),
      guest.queueRegister(0, COMMON.queueVector, 2),
      guest.queueRegister(0, COMMON.queueDesc, 4),
    ]).toEqual([256, NO_VECTOR, 0])
  })

  it("PCI-14 64-bit addresses are written as two dwords in either order, or one dword alone", () => {
    const guest = attach()
    for (const register of [COMMON.queueDesc, COMMON.queueDriver, COMMON.queueDevice]) {
      for (const order of [[0, 4], [4, 0]]) {
        for (const half of order) guest.setQueueRegister(0, register + half, 4, half === 0 ? 0x8000_1000 : 0x0012_3456)
        expect([guest.common.read(register, 4), guest.common.read(register + 4, 4)]).toEqual([0x8000_1000, 0x0012_3456])
        guest.common.write(register, 4, 0)
        expect([guest.common.read(register, 4), guest.common.read(register + 4, 4)]).toEqual([0, 0x0012_3456])
        guest.common.write(register + 4, 4, 0)
      }
      // More bits than a number holds: both halves stay as they are, however often one of them is written.
      for (const [high, low] of [[0xffff_ffff, 0xffff_ffff], [0x8000_0001, 1], [0x0020_0000, 3], [0xfedc_ba98, 0x7654_3211]] as const) {
        guest.common.write(register + 4, 4, high)
        guest.common.write(register, 4, low)
        guest.common.write(register + 4, 4, high)
        expect([guest.common.read(register, 4), guest.common.read(register + 4, 4)]).toEqual([low, high])
        guest.common.write(register, 1, 0x55)
        expect([guest.common.read(register, 4), guest.common.read(register + 4, 4)]).toEqual([((low & 0xffff_ff00) | 0x55) >>> 0, high])
      }
    }
  })

  it("PCI-16 a queue that does not exist has size 0, and its registers cannot be written", () => {
    const guest = attach({ queues: 2 })
    for (const queue of [2, 3, 0x8000, 0xffff]) {
      for (const [offset, value] of [
        [COMMON.queueSize, 8], [COMMON.queueVector, 1], [COMMON.queueEnable, 1], [COMMON.queueReset, 1],
      ] as const) {
        guest.setQueueRegister(queue, offset, 2, value)
      }
      guest.common.write(COMMON.queueDesc, 4, 0x1000)
      expect(
        [
          COMMON.queueSize, COMMON.queueVector, COMMON.queueEnable, COMMON.queueReset, COMMON.queueNotifyOff,
        ].map((offset) => guest.common.read(offset, 2)),
      ).toEqual([0, NO_VECTOR, 0, 0, 0])
      expect(guest.common.read(COMMON.queueDesc, 4)).toBe(0)
    }
    expect(guest.queueRegister(1, COMMON.queueSize, 2)).toBe(256)
  })

  it("PCI-17 queue_size is the maximum after a reset, and takes smaller powers of two until the queue is enabled", () => {
    const guest = attach({ queueSize: 64 })
    for (const wrong of [0, 3, 6, 65, 128, 0x8000, 0xffff]) {
      guest.setQueueRegister(0, COMMON.queueSize, 2, wrong)
      expect([wrong, guest.common.read(COMMON.queueSize, 2)]).toEqual([wrong, 64])
    }
    const ring = new Ring(vm, { size: 8 })
    guest.start([ring])
    expect(guest.queueRegister(0, COMMON.queueSize, 2)).toBe(8)
    for (let round = 0; round < 20; round++) {
      const request = ring.request(T.IN, 3, SECTOR)
      guest.kick()
      expect([ring.usedIdx, ring.status(request)]).toEqual([round + 1, 0])
    }
    guest.setQueueRegister(0, COMMON.queueSize, 2, 16)
    expect(guest.common.read(COMMON.queueSize, 2)).toBe(8)
    guest.status = 0
    expect(guest.queueRegister(0, COMMON.queueSize, 2)).toBe(64)
  })

  it("PCI-18 queue_enable is 0 after a reset, 1 starts the queue, and only a reset stops or moves it", () => {
    const guest = attach()
    const ring = new Ring(vm)
    guest.negotiate(VERSION_1)
    for (const wrong of [0, 2, 0xff01]) {
      guest.setQueueRegister(0, COMMON.queueEnable, 2, wrong)
      expect(guest.common.read(COMMON.queueEnable, 2)).toBe(0)
    }
    guest.enable(0, ring)
    guest.status = UP
    guest.setQueueRegister(0, COMMON.queueEnable, 2, 0)
    guest.setQueueRegister(0, COMMON.queueDesc, 4, 0x8000)
    expect([guest.queueRegister(0, COMMON.queueEnable, 2), guest.queueRegister(0, COMMON.queueDesc, 4)]).toEqual([1, ring.desc])
    const request = ring.request(T.IN, 3, SECTOR)
    guest.kick()
    expect(ring.status(request)).toBe(0)
    guest.status = 0
    expect(guest.queueRegister(0, COMMON.queueEnable, 2)).toBe(0)
  })

  it("PCI-24 device_status is one byte, and a wider write also reaches its writable neighbours", () => {
    const guest = attach({ queues: 2 })
    guest.common.write(COMMON.status, 4, 0x0001_ff03)
    expect([guest.status, guest.common.read(COMMON.generation, 1), guest.common.read(COMMON.queueSelect, 2)]).toEqual([0x03, 0, 1])
    expect(guest.common.read(COMMON.status, 4)).toBe(0x0001_0003)
    // A byte of a wide register leaves the others alone.
    guest.common.write(COMMON.queueDesc + 1, 1, 0x12)
    expect(guest.common.read(COMMON.queueDesc, 4)).toBe(0x1200)
    guest.common.write(COMMON.status, 2, 0xff00)
    expect([guest.status, guest.common.read(COMMON.queueDesc, 4)]).toEqual([0, 0])
  })
})

describe("the other structures", () => {
  it("PCI-37 every byte of the modern BAR reads the same in every width, and undefined bytes read 0", () => {
    for (const options of [{}, { modernBar: "io" }] as const) {
      const guest = attach(options)
      const { bar } = guest.common
      const space = guest.space(bar)
      const size = barSize(guest, bar)
      const inside = ({ offset, length }: Structure, at: number): boolean => at >= offset && at < offset + length
      const before = Array.from({ length: size }, (_, at) => space.read(at, 1))
      for (const [at, byte] of before.entries()) {
        if (inside(guest.common, at) || inside(guest.device, at)) continue
        expect([at, byte]).toEqual([at, 0])
        // Neither in the notification structure, where a write means something, nor on top of ours.
        if (!inside(guest.notify, at)) space.write(at, 1, 0xff)
      }
      for (const width of [2, 4] as const) {
        for (let at = 0; at < size; at += width) {
          const expected = before.slice(at, at + width).reduce((value, byte, index) => value + byte * 2 ** (8 * index), 0)
          expect([at, width, space.read(at, width)]).toEqual([at, width, expected])
        }
      }
    }
  })

  it("PCI-20 PCI-22 each queue is kicked at its own address, the offset times the multiplier, with any value", () => {
    const guest = attach({ queues: 5 })
    const rings = [3, 4].map((queue) => new Ring(vm, { base: 0x1_0000 * (queue - 2), buffers: 0x4_0000 * (queue - 2) }))
    guest.negotiate(VERSION_1 | mask(F.MQ))
    for (const [index, ring] of rings.entries()) guest.enable(3 + index, ring)
    guest.status = UP
    expect([guest.multiplier, guest.queueRegister(3, COMMON.queueNotifyOff, 2)]).toEqual([4, 3])
    const requests = rings.map((ring) => ring.request(T.IN, 3, SECTOR))
    const statuses = (): number[] => rings.map(
      (ring, index) => ring.status(requests[index] ?? { head: 0, header: 0, data: 0, statusAt: 0 }),
    )
    guest.notify.write(4 * 4 + 1, 2, 4)
    guest.notify.write(3 * 4 + 2, 2, 3)
    expect(statuses()).toEqual([UNTOUCHED, UNTOUCHED])
    guest.notify.write(3 * 4, 2, 3)
    expect(statuses()).toEqual([0, UNTOUCHED])
    guest.notify.write(4 * 4, 4, 0xffff_ffff)
    expect(statuses()).toEqual([0, 0])
  })

  it("PCI-21 PCI-22 with a multiplier of 0 all queues share an address, and the value selects the queue", () => {
    const guest = attach({ queues: 2, modernBar: "io" })
    const rings = [new Ring(vm), new Ring(vm, { base: 0x2_0000, buffers: 0x8_0000 })]
    guest.start(rings, VERSION_1 | mask(F.MQ))
    expect([guest.multiplier, guest.queueRegister(1, COMMON.queueNotifyOff, 2)]).toEqual([0, 0])
    for (const ring of rings) ring.request(T.OUT, 3, SECTOR)
    guest.notify.write(0, 2, 1)
    expect(rings.map(({ usedIdx }) => usedIdx)).toEqual([0, 1])
    guest.notify.write(0, 2, 0)
    guest.notify.write(0, 2, 2)
    guest.notify.write(0, 2, 0xffff)
    expect(rings.map(({ usedIdx }) => usedIdx)).toEqual([1, 1])
  })

  it("PCI-19 without MQ there is one queue, number 0", () => {
    const guest = attach()
    expect(guest.common.read(COMMON.numQueues, 2)).toBe(1)
    expect([guest.queueRegister(0, COMMON.queueSize, 2), guest.queueRegister(1, COMMON.queueSize, 2)]).toEqual([256, 0])
  })

  it("PCI-01 LEG-01 the legacy registers are in BAR 0, in I/O space, and show the same device", () => {
    const guest = attach()
    const { io } = guest.barAddress(0)
    expect([io, barSize(guest, 0)]).toEqual([true, 128])
    guest.status = 0x03
    expect(guest.space(0).read(LEGACY.status, 1)).toBe(0x03)
  })
})
