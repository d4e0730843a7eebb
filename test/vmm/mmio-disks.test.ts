/** Disks of a machine behind memory-mapped registers: places, lines, what tells a guest of them, and their way out. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { mmioDeviceTreeNode, mmioKernelArgument } from "../../src/vmm/mmio-discovery.ts"
import { markedDisk } from "../harness/marked-disk.ts"
import { MMIO, MmioGuest } from "../harness/mmio.ts"
import { Ring } from "../harness/ring.ts"
import { OK, T } from "../harness/words.ts"

const WINDOW = 0xfeb0_0000

function disk(): MemoryBacking {
  return new MemoryBacking({ size: 1 << 20 })
}

describe("attachMmioDisk", () => {
  it("gives each disk its own page and line, and the guest's kernel arguments for it", () => {
    const vm = new Machine({ ramSize: 1 << 20 })
    const disks = Array.from({ length: 5 }, () => vm.attachMmioDisk(disk()))
    expect(disks.map(({ address, size }) => [address, size])).toEqual([0, 1, 2, 3, 4].map((page) => [WINDOW + 4096 * page, 4096]))
    expect(disks.map(({ line }) => line)).toEqual([10, 11, 5, 9, 10])
    expect(disks[2]?.kernelArgument).toBe("virtio_mmio.device=4K@0xfeb02000:5")
    expect(disks[2]?.deviceTreeNode).toBe(
      'virtio_mmio@feb02000 {\n\tcompatible = "virtio,mmio";\n\treg = <0x0 0xfeb02000 0x0 0x1000>;\n\tinterrupts = <5>;\n};\n',
    )
    expect(vm.attachMmioDisk(disk(), { line: 33 }).line).toBe(33)
    for (const line of [-1, 256, 1.5]) {
      expect(() => vm.attachMmioDisk(disk(), { line })).toThrow(/line must be a whole number from 0 to 255/)
    }
  })

  it("makes disks that work beside PCI disks, and are reset with the machine", () => {
    const vm = new Machine({ ramSize: 1 << 20 })
    const pci = vm.attachDisk(markedDisk())
    const mmio = vm.attachMmioDisk(markedDisk(), { line: pci.line })
    const guest = new MmioGuest(vm, mmio)
    const ring = new Ring(vm).clear()
    guest.start([ring])
    const request = ring.request(T.IN, 3, 512)
    guest.kick()
    expect([ring.status(request), guest.interrupted, vm.interrupts.raised]).toEqual([OK, true, [pci.line]])
    vm.reset()
    expect([guest.status, guest.interrupted]).toEqual([0, false])
  })

  it("has 256 places in its window, where no BAR is placed; a freed place is used again", () => {
    const vm = new Machine({ ramSize: 1 << 20 })
    const all = Array.from({ length: 256 }, () => vm.attachMmioDisk(disk(), { queueSize: 1 }))
    expect(() => vm.attachMmioDisk(disk())).toThrow("all 256 places for virtio-mmio devices are occupied; detach something")
    const gone = all[77]
    if (gone === undefined) throw new Error("no disk")
    expect(vm.detachMmioDisk(gone.address)).toBe(gone.device)
    expect(vm.attachMmioDisk(disk()).address).toBe(gone.address)
  })

  it("has detachMmioDisk as its inverse, which drops the interrupt and requests in flight, and refuses an empty place", () => {
    const vm = new Machine({ ramSize: 1 << 20 })
    const mmio = vm.attachMmioDisk(markedDisk())
    const guest = new MmioGuest(vm, mmio)
    const ring = new Ring(vm).clear()
    guest.start([ring])
    ring.request(T.IN, 3, 512)
    guest.kick()
    expect(guest.interrupted).toBe(true)
    const device = vm.detachMmioDisk(mmio.address)
    expect(device).toBeInstanceOf(VirtioBlk)
    expect([guest.interrupted, guest.read(MMIO.deviceId)]).toEqual([false, 0])
    mmio.transport.configInterrupt()
    expect(guest.interrupted).toBe(false)
    for (const address of [mmio.address, 0, WINDOW + 1, 2 ** 40]) {
      expect(() => vm.detachMmioDisk(address)).toThrow(`there is no virtio-mmio disk at 0x${address.toString(16)}`)
    }
  })
})

describe("mmioKernelArgument and mmioDeviceTreeNode", () => {
  it("give a size in whole KiB if possible, and any address", () => {
    expect(mmioKernelArgument({ address: 0x1_e000, size: 512, line: 42 })).toBe("virtio_mmio.device=512@0x1e000:42")
    expect(mmioKernelArgument({ address: 2 ** 32, size: 8192, line: 1 })).toBe("virtio_mmio.device=8K@0x100000000:1")
  })

  it("MMIO-01 give the node of the specification's example", () => {
    const place = { address: 0x1_e000, size: 0x200, line: 42 }
    expect(mmioDeviceTreeNode(place, { addressCells: 1, sizeCells: 1 })).toContain("\treg = <0x1e000 0x200>;\n\tinterrupts = <42>;\n")
    expect(mmioDeviceTreeNode({ ...place, address: 2 ** 32 + 4096 }, { interrupts: [0, 16, 1] })).toContain(
      "\treg = <0x1 0x1000 0x0 0x200>;\n\tinterrupts = <0 16 1>;\n",
    )
    expect(() => mmioDeviceTreeNode({ ...place, address: 2 ** 32 }, { addressCells: 1 })).toThrow(/needs two cells; give addressCells 2/)
    expect(() => mmioDeviceTreeNode(place, { sizeCells: 3 })).toThrow(/sizeCells must be a whole number from 1 to 2/)
    expect(() => mmioDeviceTreeNode({ ...place, address: -1 })).toThrow(/address must be a whole number/)
  })
})
