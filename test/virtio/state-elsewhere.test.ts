/**
 * A saved state that comes to a device which is not like the one that it was taken from: refused by name where the driver would not find
 * what it has negotiated or where it looks for it, and taken where the driver cannot tell the difference.
 */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import type { RestoreOptions, SaveOptions } from "../../src/virtio/state.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import type { BlockDriverOptions } from "../../src/vmm/driver/block/options.ts"
import { findMmioBlockDevices } from "../../src/vmm/driver/virtio/mmio/mmio-device.ts"
import { type AttachDiskOptions, Machine } from "../../src/vmm/machine.ts"
import type { AttachMmioDiskOptions } from "../../src/vmm/mmio-disks.ts"
import { pattern } from "../harness/requests.ts"
import { CallTransport } from "../vmm/call-transport.ts"

interface Disk {
  readonly device: VirtioBlk
  readonly transport: { saveState(options?: SaveOptions): unknown; restoreState(saved: unknown, options?: RestoreOptions): void }
}

/** A disk at a place that is always the same. */
type Attach = (vm: Machine, backing?: MemoryBacking) => Disk & { readonly detach: () => void }

const SIZE = 1 << 20
const memory = (): MemoryBacking => new MemoryBacking({ size: SIZE })

function pci(options: AttachDiskOptions = {}): Attach {
  return (vm, backing = memory()) => {
    const { device, function: transport } = vm.attachDisk(backing, { slot: 4, ...options })
    return { device, transport, detach: () => vm.detachDisk(4) }
  }
}

function mmio(options: AttachMmioDiskOptions = {}): Attach {
  return (vm, backing = memory()) => {
    const { device, transport, address } = vm.attachMmioDisk(backing, { line: 10, ...options })
    return { device, transport, detach: () => vm.detachMmioDisk(address) }
  }
}

/** A machine whose driver has used a disk. */
async function bench(attach: Attach, options: BlockDriverOptions): Promise<{ vm: Machine; disk: ReturnType<Attach>; driver: BlockDriver }> {
  const vm = new Machine({ ramSize: 8 << 20 })
  const disk = attach(vm)
  const [found] = [...findBlockDevices(vm), ...findMmioBlockDevices(vm, [{ address: 0xfeb0_0000, line: 10 }])]
  if (found === undefined) throw new Error("the driver finds no disk")
  const driver = await BlockDriver.open(found, { watchInterval: 60_000, ...options })
  await driver.write(3, pattern(3, 2))
  return { vm, disk, driver }
}

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value))
const GONE = /^saved state: the driver uses features that this device does not offer \(bit/
const OTHER = /^saved state: it is of another PCI function: register 0x/
const LEGACY: BlockDriverOptions = { transport: "legacy" }
const BIG: BlockDriverOptions = { guestEndian: "big" }

describe("a device that lacks something of the saved state is refused by name", () => {
  const withoutIndirect = { withoutFeatures: ["INDIRECT_DESC"] } as const
  it.each<[string, Attach, Attach, BlockDriverOptions, RegExp]>([
    ["a modern driver's INDIRECT_DESC is missing", pci(), pci(withoutIndirect), {}, GONE],
    ["a legacy driver's INDIRECT_DESC is missing", pci(), pci(withoutIndirect), LEGACY, /\(bit 28\)/],
    ["a legacy driver's EVENT_IDX is missing", pci(), pci({ withoutFeatures: ["EVENT_IDX"] }), LEGACY, /\(bit 29\)/],
    ["a legacy driver's FLUSH is missing", pci(), pci({ withoutFeatures: ["FLUSH"] }), LEGACY, /\(bits 9, 11\)/],
    ["the same over MMIO", mmio({ version: 1 }), mmio({ version: 1, ...withoutIndirect }), {}, GONE],
    ["packed rings are missing", mmio({ withFeatures: ["RING_PACKED"] }), mmio(), {}, /\(bit 34\)/],
    ["the modern structures are in another kind of BAR", pci(), pci({ modernBar: "io" }), {}, OTHER],
    ["the same the other way round", pci({ modernBar: "io" }), pci(), {}, OTHER],
    ["the modern structures are missing", pci(), pci({ interface: "legacy" }), {}, OTHER],
    ["modern structures are added", pci({ interface: "legacy" }), pci(), {}, OTHER],
    ["fewer vectors", pci({ vectors: 3 }), pci({ vectors: 2 }), {}, OTHER],
    ["other queues", pci(), pci({ queues: 4, vectors: 2 }), {}, /^saved state: its device has 1 queues, this one 4$/],
    ["other queues over MMIO", mmio({ queues: 2 }), mmio(), {}, /^saved state: its device has 2 queues, this one 1$/],
    [
      "another byte order", pci({ interface: "legacy", guestEndian: "big" }), pci({ interface: "legacy" }), BIG,
      /^saved state: its guest is "big"-endian, this one little-endian$/,
    ],
    [
      "the same the other way round", pci({ interface: "legacy" }), pci({ interface: "legacy", guestEndian: "big" }), {},
      /^saved state: its guest is "little"-endian, this one big-endian$/,
    ],
    [
      "another byte order over MMIO", mmio({ version: 1, guestEndian: "big" }), mmio({ version: 1 }), BIG,
      /^saved state: its guest is "big"-endian, this one little-endian$/,
    ],
    ["MMIO in place of PCI", pci(), mmio(), {}, /^saved state: it is of virtio over PCI, this is virtio over MMIO$/],
    ["PCI in place of MMIO", mmio(), pci(), {}, /^saved state: it is of virtio over MMIO, this is virtio over PCI$/],
  ])("%s", async (_, from, to, options, message) => {
    const { vm, disk, driver } = await bench(from, options)
    const state = plain(disk.transport.saveState())
    disk.detach()
    const other = to(vm)
    expect(() => other.transport.restoreState(state, { image: "any" })).toThrow(message)
    expect([other.device.virtio.status, other.device.virtio.pauses.isPaused]).toEqual([0, false])
    await driver.close().catch(() => undefined)
  })

  it("a state of another transport has a version as well", () => {
    const vm = new Machine({ ramSize: 1 << 20 })
    const { virtio } = new VirtioBlk(memory())
    void new CallTransport({ virtio }, { memory: vm.memory, interrupt: () => undefined })
    const state = virtio.saveState()
    expect(state.version).toBe(2)
    virtio.restoreState(plain(state))
    expect(() => virtio.restoreState({ ...state, version: 3 })).toThrow("saved state: version 3, this program knows 1 to 2")
  })
})

describe("a device that looks the same to the driver accepts the state", () => {
  it.each<[string, Attach, Attach, BlockDriverOptions]>([
    ["more features", pci(), pci({ withFeatures: ["RING_PACKED", "IN_ORDER", "SUSPEND", "NOTIFICATION_DATA"] }), {}],
    ["a feature that the driver has refused is gone", pci(), pci({ withoutFeatures: ["EVENT_IDX"] }), {
      features: { refuse: ["EVENT_IDX"] },
    }],
    ["the same for a legacy driver", pci(), pci({ withoutFeatures: ["EVENT_IDX"] }), { ...LEGACY, features: { refuse: ["EVENT_IDX"] } }],
    ["longer queues", mmio({ queueSize: 64 }), mmio({ queueSize: 256 }), {}],
    ["longer queues of a legacy driver", pci({ queueSize: 64 }), pci({ queueSize: 256 }), LEGACY],
    ["one of several functions", pci(), pci({ functionNumber: 0 }), {}],
  ])("%s", async (_, from, to, options) => {
    const { vm, disk, driver } = await bench(from, options)
    const state = plain(disk.transport.saveState())
    disk.detach()
    const backing = memory()
    backing.pwrite(pattern(9, 1), 7 * 512)
    const other = to(vm, backing)
    other.transport.restoreState(state)
    other.device.resume()
    expect(await driver.read(7, 1)).toEqual(pattern(9, 1))
    await driver.write(5, pattern(5, 40))
    expect(await driver.read(5, 40)).toEqual(pattern(5, 40))
    await driver.close()
  })

  it.each<[string, Attach, BlockDriverOptions]>([
    ["PCI, a line", pci({ vectors: 0 }), {}], ["PCI, MSI-X", pci(), {}], ["PCI, a legacy driver", pci({ vectors: 0 }), LEGACY],
    ["MMIO", mmio(), {}], ["MMIO, version 1, big-endian", mmio({ version: 1, guestEndian: "big" }), BIG],
  ])("BLK-35 CF-08 with another size the driver is told once all is restored, and may read it at once: %s", async (_, attach, options) => {
    const { vm, disk, driver } = await bench(attach, options)
    for (const size of [2 * SIZE, SIZE / 2]) {
      const state = plain(disk.transport.saveState())
      disk.detach()
      const other = attach(vm, new MemoryBacking({ size }))
      const heard: unknown[] = []
      const end = vm.interrupts.subscribe(() => heard.push([other.device.virtio.status, driver.identify().capacity]))
      const news: number[] = []
      const endNews = driver.onConfigurationChange(() => news.push(driver.identify().capacity))
      other.transport.restoreState(state)
      end()
      endNews()
      expect([heard[0], other.device.virtio.status & 0x07]).toEqual([[other.device.virtio.status, size / 512], 0x07])
      expect([news.includes(size / 512), driver.failure]).toEqual([true, undefined])
      other.device.resume()
      expect(await driver.read(7, 1)).toEqual(new Uint8Array(512))
      Object.assign(disk, other)
    }
    await driver.close()
  })

  it("a function keeps its pending interrupt in a slot that has more functions now", async () => {
    const { vm, disk, driver } = await bench(pci({ vectors: 0 }), { interrupts: "none" })
    const state = plain(disk.transport.saveState())
    vm.attachDisk(memory(), { slot: 4, functionNumber: 1 })
    disk.transport.restoreState(state)
    disk.device.resume()
    expect(await driver.read(3, 1)).toEqual(new Uint8Array(pattern(3, 1)))
    await driver.close()
  })

  it.each<[string, BlockDriverOptions]>([["modern", {}], ["legacy", LEGACY]])(
    "FT-29 with a writable disk that is read-only now, its %s driver's writes and discards fail, also after a restore",
    async (_, options) => {
      const { vm, disk, driver } = await bench(pci(), options)
      const readOnly = memory()
      readOnly.pwrite(pattern(3, 2), 3 * 512)
      Object.defineProperty(readOnly, "readOnly", { value: true })
      await disk.device.changeBacking(readOnly)
      const state = plain(disk.transport.saveState())
      disk.detach()
      const other = pci()(vm, readOnly)
      other.transport.restoreState(state)
      other.device.resume()
      await expect(driver.write(3, pattern(4, 1))).rejects.toMatchObject({ status: "IOERR" })
      await expect(driver.discard([{ sector: 0, sectors: 128 }])).rejects.toMatchObject({ status: "IOERR" })
      expect(await driver.read(3, 2)).toEqual(pattern(3, 2))
      await driver.reset()
      expect(driver.identify().readOnly).toBe(true)
      await driver.close()
    },
  )
})
