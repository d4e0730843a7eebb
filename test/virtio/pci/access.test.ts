/**
 * Reaching a virtio function in other ways: through the window in configuration space ([VIRTIO] 4.1.4.9), at moved BARs, with decoding or
 * bus mastering off.
 */
import { beforeEach, describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { findBlockDevices, BlockDriver } from "../../../src/vmm/driver/block/driver.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import { markedDisk } from "../../harness/marked-disk.ts"
import { PciGuest, type Structure, type Width } from "../../harness/pci.ts"
import { ModernGuest } from "../../harness/registers.ts"
import { Ring } from "../../harness/ring.ts"
import { CAP, COMMON, LEGACY, T, UNTOUCHED, UP, VERSION_1 } from "../../harness/words.ts"

const SECTOR = 512

let vm: Machine
let guest: ModernGuest
let ring: Ring
beforeEach(() => {
  vm = new Machine({ ramSize: 1 << 20 })
  guest = new ModernGuest(vm, vm.attachDisk(markedDisk()).slot)
  ring = new Ring(vm)
})

describe("the window in configuration space", () => {
  let window: Structure
  beforeEach(() => (window = guest.structure(CAP.PCI)))

  function aim(bar: number, offset: number, length: number): void {
    guest.setConfig(window.at + 4, 1, bar)
    guest.setConfig(window.at + 8, 4, offset)
    guest.setConfig(window.at + 12, 4, length)
  }

  function read(structure: Structure, offset: number, width: Width): number {
    aim(structure.bar, structure.offset + offset, width)
    return guest.config(window.at + 16, width)
  }

  function write(structure: Structure, offset: number, width: Width, value: number): void {
    aim(structure.bar, structure.offset + offset, width)
    guest.setConfig(window.at + 16, width, value)
  }

  it("PCI-33 the window serves a whole session while decoding of BARs is off: negotiation, a ring, a kick, the ISR", () => {
    // Bus mastering only.
    guest.command = 4
    expect(guest.common.read(COMMON.numQueues, 2)).toBe(0xffff)
    for (const status of [0, 0x01, 0x03]) write(guest.common, COMMON.status, 1, status)
    write(guest.common, COMMON.driverFeatureSelect, 4, 1)
    write(guest.common, COMMON.driverFeature, 4, 1)
    write(guest.common, COMMON.status, 1, 0x0b)
    expect(read(guest.common, COMMON.status, 1)).toBe(0x0b)
    write(guest.common, COMMON.queueSize, 2, ring.size)
    for (const [offset, address] of [
      [COMMON.queueDesc, ring.desc], [COMMON.queueDriver, ring.avail], [COMMON.queueDevice, ring.used],
    ] as const) {
      write(guest.common, offset, 4, address)
    }
    write(guest.common, COMMON.queueEnable, 2, 1)
    write(guest.common, COMMON.status, 1, UP)
    const request = ring.request(T.IN, 3, SECTOR)
    write(guest.notify, 0, 2, 0)
    expect([ring.status(request), guest.interrupted]).toEqual([0, true])
    expect(read(guest.isr, 0, 1)).toBe(1)
    expect([guest.interrupted, read(guest.isr, 0, 1)]).toEqual([false, 0])
    expect(read(guest.device, 0, 4)).toBe(2048)
  })

  it("PCI-33 the window reaches the legacy registers too", () => {
    aim(0, LEGACY.status, 1)
    guest.setConfig(window.at + 16, 1, 0x01)
    expect([guest.config(window.at + 16, 1), guest.status]).toEqual([0x01, 0x01])
  })

  it("PCI-33 the window acts only on access to its data, not when it is aimed, nor on other accesses", () => {
    guest.start([ring])
    ring.request(T.IN, 3, SECTOR)
    guest.kick()
    aim(guest.isr.bar, guest.isr.offset, 1)
    for (let at = 0; at < 0x100; at += 4) if (at !== window.at + 16) guest.config(at, 4)
    expect(guest.interrupted).toBe(true)
    expect(guest.config(window.at + 16, 1)).toBe(1)
    expect(guest.interrupted).toBe(false)
  })

  it.each([
    ["length 0", 4, 0x1000, 0],
    ["length 3", 4, 0x1000, 3],
    ["length 3 at a multiple of it", 4, 0x0015, 3],
    ["length 8", 4, 0x1000, 8],
    ["length 2^32 - 1", 4, 0x1000, 0xffff_ffff],
    ["the upper half of the BAR's address", 5, 0x1000, 1],
    ["a missing BAR", 2, 0x1000, 1],
    ["BAR 6", 6, 0x1000, 1],
    ["BAR 255", 255, 0x1000, 1],
    ["an offset past the BAR", 4, 0xffff_fffc, 4],
    ["an offset just past the BAR", 4, 0x4000, 1],
    ["an access across the end", 4, 0x3ffe, 4],
    ["an offset that is not a multiple of the length", 4, 0x0fff, 2],
  ])("PCI-33 the window does nothing, and keeps its data, with %s", (_, bar, offset, length) => {
    guest.start([ring])
    ring.request(T.IN, 3, SECTOR)
    guest.kick()
    aim(guest.common.bar, 0x2000, 4)
    guest.config(window.at + 16, 4)
    aim(bar, offset, length)
    expect(guest.config(window.at + 16, 4)).toBe(2048)
    guest.setConfig(window.at + 16, 4, 0x1234_5678)
    expect(guest.config(window.at + 16, 4)).toBe(0x1234_5678)
    expect([guest.readIsr(), guest.status, guest.capacity]).toEqual([1, UP, 2048])
  })

  it("PCI-33 the window serves the block driver from end to end", async () => {
    const [pci] = findBlockDevices(vm)
    if (pci === undefined) throw new Error("no disk")
    const driver = await BlockDriver.open(pci, { access: "window" })
    const data = new Uint8Array(4 * SECTOR).map((_, at) => at * 7)
    await driver.write(100, data)
    expect(await driver.read(100, 4)).toEqual(data)
    await driver.close()
  })
})

describe("BARs", () => {
  it("PCI-14 PCI-37 a 64-bit BAR works wherever the guest places it, above 4 GiB too, and no longer where it was", () => {
    const { bar } = guest.common
    expect(guest.config(0x10 + 4 * bar, 4) & 7).toBe(4)
    const before = guest.barAddress(bar).address
    guest.start([ring])
    for (const address of [2 ** 39 + 2 ** 20, 2 ** 32, 2 ** 51, 0xe000_0000]) {
      guest.setConfig(0x10 + 4 * bar, 4, address % 2 ** 32)
      guest.setConfig(0x14 + 4 * bar, 4, Math.floor(address / 2 ** 32))
      expect(guest.barAddress(bar).address).toBe(address)
      expect([vm.mmioRead(before + COMMON.status, 1), vm.mmioRead(address + COMMON.status, 1)]).toEqual([0xff, UP])
      const request = ring.request(T.IN, 3, SECTOR)
      guest.kick()
      expect([ring.status(request), guest.readIsr()]).toEqual([0, 1])
    }
  })

  it("PCI-36 Command bits 0 and 1 decide whether I/O and memory BARs answer; the device goes on meanwhile", () => {
    guest.start([ring])
    const legacy = guest.space(0)
    guest.command = 6
    expect([guest.status, legacy.read(LEGACY.status, 1)]).toEqual([UP, 0xff])
    guest.command = 5
    expect([guest.status, legacy.read(LEGACY.status, 1)]).toEqual([0xff, UP])
    const request = ring.request(T.IN, 3, SECTOR)
    guest.kick()
    expect(ring.status(request)).toBe(UNTOUCHED)
    legacy.write(LEGACY.queueNotify, 2, 0)
    expect(ring.status(request)).toBe(0)
  })
})

describe("bus mastering", () => {
  it("PCI-36 while bus mastering is off kicks and DRIVER_OK move nothing in RAM; requests are served once it is on", () => {
    guest.command = 3
    guest.negotiate(VERSION_1)
    guest.enable(0, ring)
    const request = ring.request(T.IN, 3, SECTOR)
    guest.status = UP
    guest.kick()
    expect([ring.usedIdx, ring.status(request), guest.interrupted, guest.status]).toEqual([0, UNTOUCHED, false, UP])
    guest.command = 7
    expect([ring.usedIdx, ring.status(request), guest.interrupted]).toEqual([1, 0, true])
    guest.command = 3
    const second = ring.request(T.IN, 3, SECTOR, 1)
    guest.kick()
    expect([ring.usedIdx, ring.status(second)]).toEqual([1, UNTOUCHED])
    guest.command = 7
    expect([ring.usedIdx, ring.status(second)]).toEqual([2, 0])
  })

  it("PCI-36 firmware leaves bus mastering off", () => {
    expect(new PciGuest(vm, vm.attachDisk(new MemoryBacking({ size: SECTOR })).slot).command).toBe(3)
  })
})
