/**
 * The device configuration space ([VIRTIO] 2.5), seen through both interfaces: access, generation, change. Fields are the blk tests'
 * business.
 */
import { beforeEach, describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import type { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { Machine } from "../../src/vmm/machine.ts"
import type { Space, Width } from "../harness/pci.ts"
import { LegacyGuest, ModernGuest } from "../harness/registers.ts"
import { Ring } from "../harness/ring.ts"
import { COMMON, F, LEGACY, LEGACY_UP, mask, VERSION_1 } from "../harness/words.ts"

const SECTOR = 512
/** [VIRTIO] 5.2.4: `struct virtio_blk_config`, all of it. */
const SIZE = 0x60
const WRITEBACK = 0x20
const NUM_QUEUES = 0x22
const MAX_DISCARD_SECTORS = 0x24

let vm: Machine
let backing: VirtioBacking & { size: number }
let device: VirtioBlk
let guest: ModernGuest
let legacy: LegacyGuest
/** The configuration as a legacy driver finds it: behind the registers. */
let legacyConfig: Space
beforeEach(() => {
  vm = new Machine({ ramSize: 1 << 20 })
  backing = {
    size: 2 ** 43 + 0x1234_5600,
    readOnly: false,
    pread: () => {},
    pwrite: () => {},
    flush: () => {},
    discard: () => {},
    close: () => {},
  }
  const attached = vm.attachDisk(backing, { queues: 2 })
  device = attached.device
  guest = new ModernGuest(vm, attached.slot)
  legacy = new LegacyGuest(vm, attached.slot)
  legacyConfig = {
    read: (at, width) => legacy.io.read(LEGACY.device + at, width),
    write: (at, width, value) => legacy.io.write(LEGACY.device + at, width, value),
  }
})

function resize(size: number): void {
  backing.size = size
  device.capacityChanged()
}

function bytes(space: Space, from = 0, to = SIZE): number[] {
  return Array.from({ length: to - from }, (_, at) => space.read(from + at, 1))
}

function views(): [string, Space][] {
  return [["modern", guest.device], ["legacy", legacyConfig]]
}

describe("access", () => {
  it("CF-01 CF-04 CF-05 LEG-05 LEG-13 fields are little-endian, and reads of any width at any offset show their bytes", () => {
    const capacity = 2 ** 34 + 0x9_1a2b
    for (const [name, space] of views()) {
      const low = capacity % 2 ** 32
      expect([name, space.read(0, 4), space.read(4, 4)]).toEqual([name, low, 4])
      expect(bytes(space, 0, 8)).toEqual([0x2b, 0x1a, 0x09, 0, 4, 0, 0, 0])
      const all = bytes(space)
      for (let at = 0; at < SIZE; at++) {
        for (const width of [2, 4] as const) {
          const expected = all.slice(at, at + width).reduce((value, byte, index) => value + byte * 2 ** (8 * index), 0)
          expect([name, at, width, space.read(at, width)]).toEqual([name, at, width, expected])
        }
      }
    }
    expect(bytes(legacyConfig)).toEqual(bytes(guest.device))
  })

  it("CF-02 fields of offered features can be read before any feature is accepted", () => {
    guest.status = 0
    guest.status = 0x03
    expect(guest.device.read(NUM_QUEUES, 2)).toBe(2)
    expect(guest.device.read(MAX_DISCARD_SECTORS, 4)).toBeGreaterThan(0)
    expect(guest.capacity).toBe(2 ** 34 + 0x9_1a2b)
  })

  it("CF-06 PCI-37 past the structure everything reads 0, and writes are dropped", () => {
    const before = bytes(guest.device)
    const legacyEnd = 0x80 - LEGACY.device
    for (const width of [1, 2, 4] as const) {
      for (let at = SIZE; at < 0x100; at += width) {
        guest.device.write(at, width, 0xffff_ffff)
        expect(guest.device.read(at, width)).toBe(0)
        if (at + width > legacyEnd) continue
        legacyConfig.write(at, width, 0xffff_ffff)
        expect(legacyConfig.read(at, width)).toBe(0)
      }
    }
    expect(guest.device.read(SIZE - 2, 4)).toBe((before[SIZE - 2] ?? 0) + (before[SIZE - 1] ?? 0) * 256)
    expect(bytes(guest.device)).toEqual(before)
  })

  it("CF-07 writing all ones everywhere changes only writeback, and that only with CONFIG_WCE", () => {
    const ring = new Ring(vm)
    const overwrite = (space: Space): number[] => {
      const before = bytes(space)
      for (const width of [1, 2, 4] as const) for (let at = 0; at < SIZE; at += width) space.write(at, width, 0xffff_ffff)
      return bytes(space).flatMap((byte, at) => (byte === before[at] ? [] : [at]))
    }
    for (const [features, changed] of [[mask(F.FLUSH, F.CONFIG_WCE), [WRITEBACK]], [mask(F.FLUSH), []], [0n, []]] as const) {
      for (const value of [0, 1]) {
        guest.start([ring.clear()], VERSION_1 | features)
        guest.device.write(WRITEBACK, 1, value)
        const writeback = guest.device.read(WRITEBACK, 1)
        expect([features, writeback]).toEqual([features, changed.length > 0 ? value : features === 0n ? 0 : 1])
        expect(overwrite(guest.device)).toEqual(writeback === 0 && changed.length > 0 ? changed : [])
        // Anything that is not 0 is 1.
        if (changed.length > 0) expect(guest.device.read(WRITEBACK, 1)).toBe(1)
        // Its neighbours do not lead to it.
        for (let at = 0; at < SIZE; at++) if (at !== WRITEBACK) guest.device.write(at, 1, 0)
        if (changed.length > 0) expect(guest.device.read(WRITEBACK, 1)).toBe(1)
      }
    }
    const without = new ModernGuest(vm, vm.attachDisk(new MemoryBacking({ size: SECTOR }), { withoutFeatures: ["CONFIG_WCE"] }).slot)
    expect(overwrite(without.device)).toEqual([])
  })
})

describe("change", () => {
  const generation = (): number => guest.common.read(COMMON.generation, 1)

  it("CF-03 the generation is another one after any number of changes between two reads", () => {
    for (const changes of [1, 2, 255, 256, 257, 512]) {
      const before = generation()
      guest.device.read(0, 4)
      for (let change = 1; change <= changes; change++) resize(change * SECTOR)
      expect(guest.device.read(0, 4)).toBe(changes)
      expect([changes, generation() === before]).toEqual([changes, false])
      const after = generation()
      guest.device.read(0, 4)
      expect(generation()).toBe(after)
      resize(SECTOR * 100_000)
    }
  })

  it("CF-03 the generation shows a driver that two halves of a 64-bit field do not belong together", () => {
    const read = (between: () => void): { capacity: number; stable: boolean } => {
      const before = generation()
      const low = guest.device.read(0, 4)
      between()
      return { capacity: low + guest.device.read(4, 4) * 2 ** 32, stable: generation() === before }
    }
    resize(2 ** 41)
    expect(read(() => {})).toEqual({ capacity: 2 ** 32, stable: true })
    // The low half of the old size with the high half of the new one.
    expect(read(() => resize(2 ** 41 - SECTOR))).toEqual({ capacity: 0, stable: false })
    expect(read(() => {})).toEqual({ capacity: 2 ** 32 - 1, stable: true })
  })

  it("CF-03 announcing the same size changes nothing", () => {
    const before = generation()
    resize(backing.size)
    expect(generation()).toBe(before)
  })

  it("CF-08 a disk that grows raises one configuration interrupt, and can be read beyond the old end", () => {
    const ring = new Ring(vm)
    resize(8 * SECTOR)
    guest.start([ring])
    resize(16 * SECTOR)
    expect([guest.interrupted, guest.readIsr(), guest.interrupted, guest.capacity]).toEqual([true, 3, false, 16])
    const request = ring.request(0, 15, SECTOR)
    guest.kick()
    expect(ring.status(request)).toBe(0)
    expect(guest.readIsr()).toBe(1)
  })

  it("CF-08 before DRIVER_OK there is no interrupt, and the capacity is the new one", () => {
    guest.negotiate(VERSION_1)
    resize(16 * SECTOR)
    expect([guest.interrupted, guest.readIsr(), guest.capacity]).toEqual([false, 0, 16])
  })

  it("LEG-18 a legacy driver that reads the capacity until two results agree never gets a mixed value", () => {
    legacy.status = 0
    legacy.status = LEGACY_UP
    const sizes = [2 ** 42, 2 ** 42 - SECTOR, 7 * SECTOR, 2 ** 43 + 5 * SECTOR]
    const valid = new Set([backing.size, ...sizes].map((size) => Math.floor(size / SECTOR)))
    for (const size of sizes) {
      const read = (width: Width): number => {
        let value = 0
        for (let at = 0; at < 8; at += width) value += legacyConfig.read(at, width) * 2 ** (8 * at)
        return value
      }
      let tries = 0
      let last = read(4)
      for (;;) {
        if (tries++ === 0) resize(size)
        const next = read(1)
        if (next === last) break
        last = next
      }
      expect(last).toBe(size / SECTOR)
      expect(valid.has(last)).toBe(true)
      expect([legacy.readIsr(), tries]).toEqual([3, 2])
    }
  })
})
