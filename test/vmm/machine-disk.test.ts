/** Disks in a Machine, driven by hand through ports and RAM as a legacy driver would, with numbers of the specification typed anew. */
import { beforeEach, describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { type AttachedDisk, Machine } from "../../src/vmm/machine.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { OPTIONS, TestFunction } from "../pci/test-function.ts"

const SEED = seedFromEnvironment(0xd15c)
const SECTOR = 512

/** Offsets in the legacy I/O BAR, [VIRTIO] 4.1.4.10. */
const QUEUE_ADDRESS = 0x08
const QUEUE_NOTIFY = 0x10
const DEVICE_STATUS = 0x12
const ISR = 0x13
const CAPACITY = 0x14

/** The ring of 256 descriptors at 64 KiB (256 * 16 bytes of descriptors, then avail, used on the next page), buffers at 128 KiB. */
const RING = 0x1_0000
const AVAIL = RING + 0x1000
const USED = RING + 0x2000
const HEADER = 0x2_0000
const DATA = 0x2_1000
const STATUS = 0x2_2000

let vm: Machine
let ram: DataView
beforeEach(() => {
  vm = new Machine({ ramSize: 1 << 20 })
  ram = new DataView(vm.ram.buffer)
})

function config(slot: number, register: number, value?: number): number {
  vm.portWrite(0xcf8, 4, 0x8000_0000 + slot * 0x800 + register)
  if (value !== undefined) vm.portWrite(0xcfc, 4, value)
  return vm.portRead(0xcfc, 4)
}

/** The legacy driver's start: bus master, ACKNOWLEDGE, DRIVER, the ring, DRIVER_OK. Returns the port of the BAR. */
function start(disk: AttachedDisk): number {
  const port = config(disk.slot, 0x10) - 1
  config(disk.slot, 0x04, 0x0007)
  vm.portWrite(port + DEVICE_STATUS, 1, 0x01)
  vm.portWrite(port + DEVICE_STATUS, 1, 0x03)
  vm.portWrite(port + QUEUE_ADDRESS, 4, RING / 4096)
  vm.portWrite(port + DEVICE_STATUS, 1, 0x07)
  return port
}

/** Makes one request of type IN available: header, data, status in three descriptors; then kicks. */
function read(port: number, sector: number, sectors: number): void {
  ram.setUint32(HEADER, 0, true)
  ram.setBigUint64(HEADER + 8, BigInt(sector), true)
  ram.setUint8(STATUS, 0xff)
  const descriptors = [[HEADER, 16, 1, 1], [DATA, sectors * SECTOR, 3, 2], [STATUS, 1, 2, 0]] as const
  for (const [index, [address, length, flags, next]] of descriptors.entries()) {
    ram.setBigUint64(RING + 16 * index, BigInt(address), true)
    ram.setUint32(RING + 16 * index + 8, length, true)
    ram.setUint16(RING + 16 * index + 12, flags, true)
    ram.setUint16(RING + 16 * index + 14, next, true)
  }
  const available = ram.getUint16(AVAIL + 2, true)
  ram.setUint16(AVAIL + 4 + 2 * (available % 256), 0, true)
  ram.setUint16(AVAIL + 2, available + 1, true)
  vm.portWrite(port + QUEUE_NOTIFY, 2, 0)
}

describe("attachDisk", () => {
  it("with readOnly offers a writable backing as a read-only disk, beside a writable one", () => {
    const RO = 1 << 5
    const backing = new MemoryBacking({ size: SECTOR })
    const [fixed, free] = [vm.attachDisk(backing, { readOnly: true }), vm.attachDisk(new MemoryBacking({ size: SECTOR }))]
    const features = (disk: AttachedDisk): number => vm.portRead(config(disk.slot, 0x10) - 1, 4)
    expect([fixed.device.readOnly, backing.readOnly, features(fixed) & RO]).toEqual([true, false, RO])
    expect([free.device.readOnly, features(free) & RO]).toEqual([false, 0])
  })

  it("PCI-01 PCI-04 puts a transitional block device on the bus, with its interrupt line, its BARs placed and bus mastering off", () => {
    const disk = vm.attachDisk(new MemoryBacking({ size: 1 << 30 }))
    expect([disk.slot, disk.line]).toEqual([1, 10])
    expect(config(1, 0x00)).toBe(0x1001_1af4)
    expect(config(1, 0x04) & 0xffff).toBe(0x0003)
    expect(config(1, 0x3c)).toBe(0x010a)
    expect(disk.function.device).toBe(disk.device)
    const port = config(1, 0x10) - 1
    expect([vm.portRead(port + CAPACITY, 4), vm.portRead(port + CAPACITY + 4, 4)]).toEqual([2 ** 21, 0])
  })

  it("passes its options to the device and to the PCI function, and uses the given slot", () => {
    const disk = vm.attachDisk(new MemoryBacking({ size: SECTOR }), { slot: 6, interface: "modern", vectors: 7, queues: 3 })
    expect(disk.slot).toBe(6)
    expect(config(6, 0x00)).toBe(0x1042_1af4)
    expect(disk.function.msix?.vectors).toBe(7)
    expect(disk.device.virtio.queueCount).toBe(3)
    expect(() => vm.attachDisk(new MemoryBacking({ size: SECTOR }), { slot: 6 })).toThrow("slot 6 is occupied")
    expect(() => vm.attachDisk(new MemoryBacking({ size: SECTOR }), { queues: 0 })).toThrow(RangeError)
    expect(() => vm.attachDisk(new MemoryBacking({ size: SECTOR }), { vectors: 4000 })).toThrow(RangeError)
    expect(config(1, 0x00)).toBe(0xffff_ffff)
  })

  it("has room for 31 disks of every interface and BAR kind", () => {
    for (const options of [{}, { interface: "legacy" }, { modernBar: "io" }, { vectors: 2048, queues: 2047 }] as const) {
      const full = new Machine({ ramSize: 4096 })
      for (let slot = 1; slot <= 31; slot++) {
        const { function: fn } = full.attachDisk(new MemoryBacking({ size: SECTOR }), options)
        for (const bar of fn.bars) expect(fn.barAddress(bar.index)).toBeGreaterThan(0)
      }
    }
  })

  it("serves a legacy driver that knows only ports and RAM, whose interrupt line falls when it reads the ISR", () => {
    const content = new Rng(SEED).bytes(4 * SECTOR)
    const backing = new MemoryBacking({ size: 1 << 20 })
    backing.pwrite(content, 77 * SECTOR)
    const port = start(vm.attachDisk(backing))
    read(port, 77, 4)
    expect(vm.ram[STATUS]).toBe(0)
    expect(vm.ram.subarray(DATA, DATA + 4 * SECTOR)).toEqual(content)
    expect(ram.getUint16(USED + 2, true)).toBe(1)
    expect(vm.interrupts.level(10)).toBe(true)
    expect(vm.portRead(port + ISR, 1)).toBe(1)
    expect(vm.interrupts.level(10)).toBe(false)
  })

  it("PCI-36 without bus mastering leaves guest memory alone, and serves the request once it is on", () => {
    const disk = vm.attachDisk(new MemoryBacking({ size: 1 << 20 }))
    const port = start(disk)
    config(disk.slot, 0x04, 0x0003)
    read(port, 0, 1)
    expect([ram.getUint16(USED + 2, true), vm.ram[STATUS]]).toEqual([0, 0xff])
    config(disk.slot, 0x04, 0x0007)
    expect([ram.getUint16(USED + 2, true), vm.ram[STATUS]]).toEqual([1, 0])
  })
})

describe("detachDisk", () => {
  it("detaches only disks", () => {
    vm.plug(4, ({ interrupts }) => new TestFunction({ ...OPTIONS, interrupts }))
    for (const slot of [0, 4, 5, 99]) expect(() => vm.detachDisk(slot)).toThrow(`slot ${slot} holds no disk`)
    expect(config(4, 0)).toBe(0x1001_1af4)
  })

  it("with a request under way leaves guest memory alone and the line low, and the slot takes another disk", async () => {
    const answers: (() => void)[] = []
    const slow: VirtioBacking = {
      size: 1 << 20,
      readOnly: false,
      asynchronous: true,
      pread: () => new Promise((resolve) => answers.push(resolve)),
      pwrite: () => {},
      close: () => {},
    }
    const disk = vm.attachDisk(slow)
    const port = start(disk)
    read(port, 0, 1)
    expect(answers.length).toBe(1)
    const device = vm.detachDisk(disk.slot)
    expect(device).toBe(disk.device)
    const before = vm.ram.slice()
    let idle = false
    const whenIdle = device.whenIdle().then(() => (idle = true))
    await Promise.resolve()
    expect(idle).toBe(false)
    for (const answer of answers) answer()
    await whenIdle
    expect(Buffer.compare(vm.ram, before)).toBe(0)
    expect(vm.interrupts.raised).toEqual([])
    expect([config(disk.slot, 0), vm.portRead(port + CAPACITY, 4)]).toEqual([0xffff_ffff, 0xffff_ffff])

    const content = new Rng(SEED).bytes(SECTOR)
    const backing = new MemoryBacking({ size: 1 << 20 })
    backing.pwrite(content, 0)
    const next = vm.attachDisk(backing)
    expect(next.slot).toBe(disk.slot)
    vm.ram.fill(0, RING, HEADER)
    read(start(next), 0, 1)
    expect(vm.ram.subarray(DATA, DATA + SECTOR)).toEqual(content)
  })
})
