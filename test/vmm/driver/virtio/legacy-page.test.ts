/** The place of a legacy ring: its page number goes into a register in which 0 means that there is no ring. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../../src/backing/memory.ts"
import { BlockDriver, findBlockDevices } from "../../../../src/vmm/driver/block/driver.ts"
import { MmioDevice } from "../../../../src/vmm/driver/virtio/mmio/mmio-device.ts"
import { legacyRingLayout, legacyRingSize } from "../../../../src/vmm/driver/virtio/rings/ring-layout.ts"
import { RamAllocator } from "../../../../src/vmm/driver/ram-allocator.ts"
import { Machine } from "../../../../src/vmm/machine.ts"

const RAM = 1 << 20
const TRANSPORTS = [["PCI"], ["MMIO"]] as const

function open(transport: "PCI" | "MMIO", memory: RamAllocator): Promise<BlockDriver> {
  const vm = new Machine({ ramSize: RAM })
  const backing = new MemoryBacking({ size: 1 << 16 })
  if (transport === "MMIO") {
    const { address, line } = vm.attachMmioDisk(backing, { version: 1, queueSize: 16 })
    return BlockDriver.open(new MmioDevice(vm, { address, line }), { memory })
  }
  vm.attachDisk(backing, { queueSize: 16 })
  const [found] = findBlockDevices(vm)
  if (found === undefined) throw new Error("no disk on the bus")
  return BlockDriver.open(found, { memory, transport: "legacy" })
}

describe.each(TRANSPORTS)("a legacy driver over %s", (transport) => {
  it("LEG-09 MMIO-17 does not use page 0 for a ring, even if its memory begins there", async () => {
    const memory = new RamAllocator({ start: 0, length: RAM })
    const driver = await open(transport, memory)
    const data = new Uint8Array(512).fill(7)
    await driver.write(3, data)
    expect(await driver.read(3, 1)).toEqual(data)
    // What was passed over is free for other things.
    expect(memory.allocate(4096, 4096)).toBe(0)
    await driver.close()
  })

  it("LEG-09 MMIO-17 fails, and says so, if page 0 is the only place for a ring", async () => {
    const memory = new RamAllocator({ start: 0, length: legacyRingSize(16) })
    await expect(open(transport, memory)).rejects.toThrow(/guest RAM are free/)
    expect(memory.available).toBe(legacyRingSize(16))
  })

  it("LEG-09 MMIO-17 refuses a caller's ring on page 0", async () => {
    const driver = await open(transport, new RamAllocator({ start: 0, length: RAM }))
    expect(() => driver.virtio.transport.enableQueue(1, legacyRingLayout(16, 0))).toThrow(/page 0/)
    await driver.close()
  })
})
