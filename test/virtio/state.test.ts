/** The state of a function and its device, taken out and put back: into another machine, with the guest's RAM, in the middle of its life. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import { type AttachedDisk, Machine } from "../../src/vmm/machine.ts"
import { promiseBacking } from "../harness/fake-disk.ts"
import { CONFIG_IRQ, RingGuest } from "../harness/guest.ts"

const SIZE = 1 << 20
const RAM = 4 << 20

function machine(backing: VirtioBacking = new MemoryBacking({ size: SIZE }), options = {}): { vm: Machine; disk: AttachedDisk } {
  const vm = new Machine({ ramSize: RAM })
  return { vm, disk: vm.attachDisk(backing, { slot: 4, ...options }) }
}

async function driver(vm: Machine, options = {}): Promise<BlockDriver> {
  const [found] = findBlockDevices(vm)
  if (found === undefined) throw new Error("the driver finds no disk")
  return BlockDriver.open(found, options)
}

const sector = (text: string): Uint8Array => new TextEncoder().encode(text.padEnd(512, "."))
const saved = (disk: AttachedDisk): Record<string, unknown> => JSON.parse(JSON.stringify(disk.function.saveState())) as Record<string, unknown>

describe("saveState and restoreState", () => {
  it.each([["MSI-X", {}], ["INTx", { vectors: 0 }], ["two queues", { queues: 2 }]] as const)("move a running device to another machine, its driver notices nothing: %s", async (_, options) => {
    const { vm, disk } = machine(undefined, options)
    const blk = await driver(vm, { queues: 2 })
    for (let round = 0; round < 700; round++) await blk.write(round % 8, sector(`round ${round}`))
    const state = saved(disk)

    // The disk goes away and comes back as another object, over another backing, with nothing but the state.
    const content = new MemoryBacking({ size: SIZE })
    content.pwrite(sector("the other backing"), 3 * 512)
    vm.detachDisk(4)
    const again = vm.attachDisk(content, { slot: 4, ...options })
    again.function.restoreState(state)
    again.device.resume()
    expect(saved(again)).toEqual(state)
    expect(await blk.read(3, 1)).toEqual(sector("the other backing"))
    await blk.write(4, sector("after"))
    expect(await blk.read(4, 1)).toEqual(sector("after"))
  })

  it("keep the driver's requests back while the device is paused, and serve them on resume", async () => {
    const { vm, disk } = machine()
    const blk = await driver(vm)
    await disk.device.pause()
    let done = false
    const write = blk.write(1, sector("waits")).then(() => {
      done = true
    })
    await new Promise((resolve) => setTimeout(resolve, 2))
    expect([done, disk.device.statistics.write.requests]).toEqual([false, 0])
    disk.device.resume()
    await write
    expect(disk.device.statistics.write.requests).toBe(1)
  })

  it("serve what the driver had made available while the state was saved", async () => {
    const { vm, disk } = machine()
    const blk = await driver(vm)
    await disk.device.pause()
    const write = blk.write(2, sector("in the ring"))
    const state = saved(disk)
    vm.detachDisk(4)
    const content = new MemoryBacking({ size: SIZE })
    const again = vm.attachDisk(content, { slot: 4 })
    again.function.restoreState(state)
    again.device.resume()
    await write
    const found = new Uint8Array(512)
    content.pread(found, 2 * 512)
    expect(found).toEqual(sector("in the ring"))
  })

  it("refuse to save while a request is in flight, and say what to do", async () => {
    const { vm, disk } = machine(promiseBacking(new MemoryBacking({ size: SIZE })))
    const blk = await driver(vm)
    const write = blk.write(0, sector("slow"))
    expect(() => disk.function.saveState()).toThrow("1 requests in flight: pause the device, and save its state when that has resolved")
    await disk.device.pause()
    expect(saved(disk)["version"]).toBe(1)
    disk.device.resume()
    await write
  })

  it("keep the cache mode that the driver chose, and tell it of a capacity that is another now", async () => {
    const { vm, disk } = machine()
    await driver(vm)
    disk.device.writeConfig(32, 1, 0) // writeback = 0
    const state = saved(disk)
    vm.detachDisk(4)
    const again = vm.attachDisk(new MemoryBacking({ size: 2 * SIZE }), { slot: 4 })
    again.function.restoreState(state)
    const generation = again.device.readConfigGeneration()
    again.device.resume()
    expect(again.device.readConfig(32, 1)).toBe(0)
    expect(again.device.readConfig(0, 4)).toBe((2 * SIZE) / 512)
    expect(generation).not.toBe((state["device"] as { generation: number }).generation)
  })

  it("tell the driver of another capacity by the vector that it had mapped, too", () => {
    const guest = new RingGuest({ backing: new MemoryBacking({ size: SIZE }) })
    const state = saved(guest.disk)
    const { slot } = guest.disk
    guest.machine.detachDisk(slot)
    guest.machine.attachDisk(new MemoryBacking({ size: 2 * SIZE }), { slot }).function.restoreState(state)
    expect(guest.irqs()).toEqual([CONFIG_IRQ])
  })

  it("keep what a driver has set up before it wrote a status", () => {
    const guest = new RingGuest({ backing: new MemoryBacking({ size: SIZE }), legacy: true })
    guest.status = 0
    guest.openRing(0)
    const state = saved(guest.disk)
    guest.disk.function.restoreState(state)
    expect(saved(guest.disk)).toEqual(state)
    expect(guest.disk.device.queue(0)?.enabled).toBe(true)
  })

  it.each<[string, (state: { version: number; isr: number; vectors: number[]; device: { status: number; features: number[]; queues: { size: unknown; usedRing: unknown }[] }; function: { config: number[]; msix?: unknown } }) => void, RegExp]>([
    ["another version", (state) => (state.version = 2), /^saved state: version 2, this program knows 1$/],
    ["an interrupt status that cannot be", (state) => (state.isr = 8), /^saved state: ISR: 8 is no number from 0 to 3$/],
    ["too few vectors", (state) => state.vectors.pop(), /^saved state: vectors: no list of 2 numbers$/],
    ["a queue size of no power of two", (state) => Object.assign(state.device.queues[0] ?? {}, { size: 100 }), /^saved state: queue size 100 is no power of two$/],
    ["an address that is no number", (state) => Object.assign(state.device.queues[0] ?? {}, { usedRing: "x" }), /^saved state: usedRing: "x" is no address$/],
    ["features that nobody offers", (state) => (state.device.features[1] = 0x8000_0001), /^saved state: the driver uses features that this device does not offer/],
    ["another device's configuration space", (state) => (state.function.config[0] = 0x1234_5678), /^saved state: it is of another PCI function: register 0 was/],
    ["no MSI-X state", (state) => delete state.function.msix, /^saved state: MSI-X on one side only$/],
    ["a configuration space cut short", (state) => state.function.config.pop(), /^saved state: configuration space: no list of 64 numbers$/],
  ])("refuse %s with one line, and leave the device reset", async (_, damage, message) => {
    const { vm, disk } = machine()
    await driver(vm)
    const state = saved(disk)
    damage(state as never)
    expect(() => disk.function.restoreState(state)).toThrow(message)
    expect([disk.device.status, disk.device.queue(0)?.enabled, disk.function.command]).toEqual([0, false, 0])
  })

  it.each([undefined, null, 7, "state", [], {}])("refuse %j", (value) => {
    const { disk } = machine()
    expect(() => disk.function.restoreState(value)).toThrow(/^saved state: /)
  })

  it("a ring whose saved addresses lie outside of RAM breaks the device, not the host", async () => {
    const { vm, disk } = machine()
    await driver(vm)
    const state = saved(disk) as { device: { queues: { descriptorTable: number }[] } }
    Object.assign(state.device.queues[0] ?? {}, { descriptorTable: 2 ** 60 })
    disk.function.restoreState(state)
    disk.device.resume()
    expect(disk.device.status & 64).toBe(64)
    expect(disk.device.brokenBy?.message).toMatch(/descriptor table at 0x1000000000000000/)
  })
})
