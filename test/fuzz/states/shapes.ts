/** Disks whose saved states are mutated: over each transport, with both rings, with what else has a part in a state. */
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { zonedDisk } from "../../../src/backing/zoned/zoned-disk.ts"
import type { BlockDriverOptions } from "../../../src/vmm/driver/block/options.ts"
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { MmioDevice } from "../../../src/vmm/driver/virtio/mmio/mmio-device.ts"
import { Throttle, type ThrottleClock } from "../../../src/virtio/blk/throttling/throttle.ts"
import type { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import type { AttachDiskOptions, Machine } from "../../../src/vmm/machine.ts"
import type { AttachMmioDiskOptions } from "../../../src/vmm/mmio-disks.ts"
import type { FakeDisk } from "../../harness/fake-disk.ts"

/** A disk in its machine. */
export interface StateDisk {
  readonly device: VirtioBlk
  readonly transport: {
    saveState(options?: { readonly inFlight?: "again" }): unknown
    restoreState(saved: unknown): void
    reset(): void
  }
}

export interface Shape {
  readonly name: string
  readonly attach: (vm: Machine, backing: VirtioBacking) => StateDisk
  /** The disk's backing, over the fake disk that answers for it. */
  readonly over: (disk: FakeDisk) => VirtioBacking
  /** A driver, as for a machine that has just been reset. */
  readonly open: (vm: Machine) => Promise<BlockDriver>
}

export const SIZE = 256 << 10
const QUEUES = 2
const plain = (disk: FakeDisk): VirtioBacking => disk

function zoned(disk: FakeDisk): VirtioBacking {
  return zonedDisk(new MemoryBacking({ size: disk.size }), { zoneSize: 32 << 10, conventionalZones: 2 })
}

function pci(name: string, disk: AttachDiskOptions | (() => AttachDiskOptions), driver: BlockDriverOptions, over = plain): Shape {
  return {
    name, over,
    attach(vm, backing) {
      const { device, function: transport } = vm.attachDisk(backing, {
        slot: 4, queues: QUEUES, queueSize: 16, ...(disk instanceof Function ? disk() : disk)
      })
      return { device, transport }
    },
    async open(vm) {
      const [found] = findBlockDevices(vm)
      if (found === undefined) throw new Error("no disk on the bus")
      return BlockDriver.open(found, { queues: QUEUES, ...driver })
    },
  }
}

function mmio(name: string, disk: AttachMmioDiskOptions, driver: BlockDriverOptions = {}): Shape {
  return {
    name, over: plain,
    attach: (vm, backing) => vm.attachMmioDisk(backing, { line: 10, queues: QUEUES, queueSize: 16, ...disk }),
    open: (vm) => BlockDriver.open(new MmioDevice(vm, { address: 0xfeb0_0000, line: 10 }), { queues: QUEUES, ...driver }),
  }
}

const PACKED = { withFeatures: ["RING_PACKED"] } as const
const IN_ORDER = { withFeatures: ["RING_PACKED", "IN_ORDER", "SUSPEND"] } as const

/** Two requests a second: those behind them wait in the throttle, and are saved. */
export function shapes(clock: ThrottleClock): readonly Shape[] {
  const limited = () => new Throttle({ bytes: { perSecond: 1e9, burst: 2e9, burstSeconds: 2 }, requests: 2 }, { clock })
  return [
    pci("PCI, MSI-X", {}, {}), pci("PCI, INTx, direct", { vectors: 0 }, { features: { refuse: ["INDIRECT_DESC"] } }),
    pci("PCI, legacy", {}, { transport: "legacy" }), pci("PCI, packed", PACKED, {}),
    pci("PCI, in order, split", { withFeatures: ["IN_ORDER"] }, { features: { refuse: ["INDIRECT_DESC"] } }),
    pci("PCI, in order, packed", IN_ORDER, {}), pci("PCI, in order, packed, direct", IN_ORDER, { features: { refuse: ["INDIRECT_DESC"] } }),
    pci("PCI, throttled", () => ({ throttle: limited() }), {}), pci("PCI, zoned", () => ({ throttle: limited() }), {}, zoned),
    mmio("MMIO, version 2", {}), mmio("MMIO, packed", IN_ORDER), mmio("MMIO, version 1", { version: 1 }),
    mmio("MMIO, version 1, big-endian", { version: 1, guestEndian: "big" }, { guestEndian: "big" }),
  ]
}
