/**
 * The state of a function and its device, taken out and put back: into another machine, with the guest's RAM, in the middle of its life.
 */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { Throttle } from "../../src/virtio/blk/throttling/throttle.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import { type AttachedDisk, Machine } from "../../src/vmm/machine.ts"
import { eio, FakeDisk, promiseBacking } from "../harness/fake-disk.ts"
import { CONFIG_IRQ, type Placed, RingGuest } from "../harness/guest.ts"
import { pattern } from "../harness/requests.ts"
import { OK, T, UNTOUCHED } from "../harness/words.ts"

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
const saved = (disk: AttachedDisk): Record<string, unknown> => JSON.parse(
  JSON.stringify(disk.function.saveState()),
) as Record<string, unknown>

describe("saveState and restoreState", () => {
  it.each([
    ["MSI-X", {}], ["INTx", { vectors: 0 }], ["two queues", { queues: 2 }],
  ] as const)("move a running device to another machine, unnoticed by its driver: %s", async (_, options) => {
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

  it("leave requests waiting while the device is paused, and serve them on resume", async () => {
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

  it("serve requests that were available when the state was saved", async () => {
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

  it("refuse while a request is in flight, and say what to do", async () => {
    const { vm, disk } = machine(promiseBacking(new MemoryBacking({ size: SIZE })))
    const blk = await driver(vm)
    const write = blk.write(0, sector("slow"))
    expect(() => disk.function.saveState()).toThrow("1 requests in flight: pause the device, and save its state when that has resolved")
    await disk.device.pause()
    expect(saved(disk)["version"]).toBe(2)
    disk.device.resume()
    await write
  })

  it.each([
    "answers that came", "answers that failed", "a request that was too long for one turn",
  ])("PCI-36 save %s while bus mastering is off as not done, and it is repeated after the restore", async (what) => {
    const disk = new FakeDisk({ size: 64 << 20 })
    disk.cache.set(pattern(0, 512))
    const long = what.startsWith("a request")
    if (!long) disk.waits = () => true
    const guest = new RingGuest({ backing: disk, disk: { slot: 4 }, machine: { ramSize: 64 << 20 } })
    const placed = long
      ? [guest.place({ type: T.IN, sector: 0, in: 24 << 20 })]
      : [guest.place({ type: T.IN, sector: 7, in: 1024 }), guest.place({ type: T.OUT, sector: 100, out: pattern(3, 1) })]
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
    guest.kick()
    guest.registers.command = 3
    for (const waiting of disk.waiting.splice(0)) what === "answers that failed" ? waiting.fail(eio()) : waiting.finish()
    await guest.disk.device.pause()
    expect([guest.usedIdx(), placed.map((one) => guest.reply(one, 0).status)]).toEqual([0, placed.map(() => UNTOUCHED)])
    const state = saved(guest.disk)
    expect((state["device"] as { queues: unknown[] }).queues).toMatchObject([{ position: 0, heads: long ? [0] : [0, 3] }])

    guest.machine.detachDisk(4)
    const other = new FakeDisk({ size: 64 << 20 })
    other.cache.set(pattern(1000, 512))
    const again = guest.machine.attachDisk(other, { slot: 4 })
    again.function.restoreState(state)
    // Still off; and what is saved now is the same.
    again.device.resume()
    expect([guest.usedIdx(), saved(again)]).toEqual([0, state])
    guest.registers.command = 7
    await guest.served()
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual(placed.map(() => OK))
    const data = guest.reply(placed[0] as Placed, 0).data
    expect(Buffer.compare(data, other.cache.subarray(long ? 0 : 7 * 512, (long ? 0 : 7 * 512) + data.length))).toBe(0)
    if (!long) expect(other.cache.subarray(100 * 512, 101 * 512)).toEqual(pattern(3, 1))
    guest.takeUsed()
    expect(guest.read(1, 1)).toMatchObject({ status: OK, data: pattern(1001, 1) })
  })

  it("keep all bits of a queue address above 2^53, and accept a state of version 1", async () => {
    const { vm, disk } = machine()
    await driver(vm)
    disk.device.virtio.writeStatus(0)
    for (const [word, value] of [0x89ab_cdef, 0xffff_fff1, 1, 2, 0xffff_ffff, 0xffff_ffff].entries()) {
      disk.device.virtio.queue(0)?.setAreaWord(word, value)
    }
    const state = saved(disk)
    expect((state["device"] as { queues: unknown[] }).queues[0]).toMatchObject({
      descriptorTable: [0x89ab_cdef, 0xffff_fff1],
      availRing: 2 * 2 ** 32 + 1,
      usedRing: [0xffff_ffff, 0xffff_ffff],
    })
    disk.function.restoreState(state)
    expect(saved(disk)).toEqual(state)
    Object.assign(state, { version: 1 })
    for (const queue of (state["device"] as { queues: { heads?: unknown }[] }).queues) delete queue.heads
    disk.function.restoreState(state)
  })

  it("keep the cache mode that the driver chose, and show another capacity with another generation", async () => {
    const { vm, disk } = machine()
    await driver(vm)
    disk.device.virtio.writeConfig(32, 1, 0) // writeback = 0
    const state = saved(disk)
    vm.detachDisk(4)
    const again = vm.attachDisk(new MemoryBacking({ size: 2 * SIZE }), { slot: 4 })
    again.function.restoreState(state)
    const generation = again.device.virtio.config.readGeneration()
    again.device.resume()
    expect(again.device.virtio.config.read(32, 1)).toBe(0)
    expect(again.device.virtio.config.read(0, 4)).toBe((2 * SIZE) / 512)
    expect(generation).not.toBe((state["device"] as { generation: number }).generation)
  })

  it("report another capacity by the vector that the driver had mapped", () => {
    const guest = new RingGuest({ backing: new MemoryBacking({ size: SIZE }) })
    const state = saved(guest.disk)
    const { slot } = guest.disk
    guest.machine.detachDisk(slot)
    guest.machine.attachDisk(new MemoryBacking({ size: 2 * SIZE }), { slot }).function.restoreState(state)
    expect(guest.irqs()).toEqual([CONFIG_IRQ])
  })

  it.each([
    ["INTx", true], ["MSI-X", false],
  ] as const)("ST-12 restore DEVICE_NEEDS_RESET without a second interrupt, over %s", (_, hasLine) => {
    const guest = new RingGuest({ backing: new MemoryBacking({ size: SIZE }), ...(hasLine ? { disk: { vectors: 0 } } : {}) })
    guest.ring.publish(0xffff)
    guest.kick()
    if (hasLine) expect(guest.registers.readIsr() & 2).toBe(2)
    else expect(guest.irqs()).toEqual([CONFIG_IRQ])
    const { slot } = guest.disk
    const state = saved(guest.disk)
    guest.machine.detachDisk(slot)
    const again = guest.machine.attachDisk(new MemoryBacking({ size: SIZE }), { slot, ...(hasLine ? { vectors: 0 } : {}) })
    again.function.restoreState(state)
    again.device.resume()
    expect([guest.irqs(), guest.machine.interrupts.raised, again.device.virtio.status & 64]).toEqual([[], [], 64])
    expect(saved(again)).toEqual(state)
    expect(again.device.brokenBy?.message).toMatch(/broken when its state was saved/)
  })

  it("keep the setup of a driver that has not written a status yet", () => {
    const guest = new RingGuest({ backing: new MemoryBacking({ size: SIZE }), legacy: true })
    guest.status = 0
    guest.openRing(0)
    const state = saved(guest.disk)
    guest.disk.function.restoreState(state)
    expect(saved(guest.disk)).toEqual(state)
    expect(guest.disk.device.virtio.queue(0)?.enabled).toBe(true)
  })

  interface Changeable {
    version: number
    isr: number
    vectors: number[]
    device: { status: number; features: number[]; queues: { size: unknown; usedRing: unknown }[] }
    function: { config: number[]; msix?: unknown }
  }
  it.each<[string, (state: Changeable) => void, RegExp]>([
    ["another version", (state) => (state.version = 3), /^saved state: version 3, this program knows 1 to 2$/],
    ["an invalid interrupt status", (state) => (state.isr = 8), /^saved state: ISR: 8 is not a number from 0 to 3$/],
    [
      "more chains in flight than the queue has descriptors",
      (state) => Object.assign(state.device.queues[0] ?? {}, { size: 2, heads: [0, 1, 1] }),
      /^saved state: 3 chains in flight in a queue of 2$/,
    ],
    [
      "half an address",
      (state) => Object.assign(state.device.queues[0] ?? {}, { usedRing: [1] }),
      /^saved state: usedRing: not a list of 2$/,
    ],
    ["too few vectors", (state) => state.vectors.pop(), /^saved state: vectors: not a list of 2$/],
    [
      "a queue size that is no power of two",
      (state) => Object.assign(state.device.queues[0] ?? {}, { size: 100 }),
      /^saved state: queue size 100 is not a power of two$/,
    ],
    [
      "an address that is not a number",
      (state) => Object.assign(state.device.queues[0] ?? {}, { usedRing: "x" }),
      /^saved state: usedRing: "x" is not an address$/,
    ],
    [
      "features that nobody offers",
      (state) => (state.device.features[1] = 0x8000_0001),
      /^saved state: the driver uses features that this device does not offer/,
    ],
    [
      "another device's configuration space",
      (state) => (state.function.config[0] = 0x1234_5678),
      /^saved state: it is of another PCI function: register 0x0 was 0x12345678, is 0x/,
    ],
    ["no MSI-X state", (state) => delete state.function.msix, /^saved state: MSI-X on one side only$/],
    ["a configuration space cut short", (state) => state.function.config.pop(), /^saved state: configuration space: not a list of 64$/],
  ])("refuse %s with one line, and leave the device reset", async (_, damage, message) => {
    const { vm, disk } = machine()
    await driver(vm)
    const state = saved(disk)
    damage(state as never)
    expect(() => disk.function.restoreState(state)).toThrow(message)
    expect([disk.device.virtio.status, disk.device.virtio.queue(0)?.enabled, disk.function.command]).toEqual([0, false, 0])
  })

  const queue = (state: Changeable, more: object) => Object.assign(state.device.queues[0] ?? {}, more)
  const itself: unknown[] = []
  itself.push(itself)
  it.each<[string, (state: Changeable) => void, string]>([
    ["half a byte's address", (state) => queue(state, { usedRing: 0.5 }), "saved state: usedRing: 0.5 is not an address"],
    [
      "an address that holds itself",
      (state) => queue(state, { usedRing: { itself } }),
      "saved state: usedRing: an object is not an address",
    ],
    [
      "a list that only has a large length",
      (state) => queue(state, { heads: new Array(2 ** 32 - 1) }),
      "saved state: heads of chains: undefined is not a number from 0 to 65535",
    ],
    [
      "a list of holes",
      (state) => queue(state, { heads: new Array(2) }),
      "saved state: heads of chains: undefined is not a number from 0 to 65535",
    ],
    ["a version that holds itself", (state) => (state.version = itself as never), "saved state: version a list, this program knows 1 to 2"],
    [
      "a long text",
      (state) => (state.isr = "x\n".repeat(1 << 20) as never),
      `saved state: ISR: "${"x\\n".repeat(20)}..." is not a number from 0 to 3`,
    ],
    ["a number of another kind", (state) => (state.isr = 1n as never), "saved state: ISR: 1 is not a number from 0 to 3"],
  ])("refuse %s, which JSON cannot hold, in one line", async (_, damage, message) => {
    const { vm, disk } = machine()
    await driver(vm)
    const state = saved(disk)
    damage(state as never)
    expect(() => disk.function.restoreState(state)).toThrow(new Error(message))
  })

  it("leave a device that refuses a state working, with the levels of its throttle", async () => {
    const throttle = new Throttle({ requests: 10 })
    const { vm, disk } = machine(undefined, { throttle })
    await driver(vm)
    const levels = throttle.saveState()
    const damages: ((state: Changeable) => void)[] = [
      (state) => (state.device.features[1] = 0x8000_0001), (state) => state.function.config.pop(), (state) => (state.device.status = 256),
      (state) => delete state.function.msix,
    ]
    for (const damage of damages) {
      const state = saved(disk)
      damage(state as never)
      ;(state["device"] as { own: { throttle: unknown } }).own.throttle = { requests: [1e6] }
      expect(() => disk.function.restoreState(state)).toThrow(/^saved state/)
      vm.reset()
      const blk = await driver(vm)
      await blk.write(3, sector("at work"))
      expect(await blk.read(3, 1)).toEqual(sector("at work"))
    }
    expect(levels).toEqual({ requests: [0] })
    // One that its owner has paused stays so.
    await disk.device.pause()
    expect(() => disk.function.restoreState({})).toThrow(/^saved state/)
    expect(disk.device.virtio.pauses.isPaused).toBe(true)
  })

  it.each([undefined, null, 7, "state", [], {}])("refuse %j", (value) => {
    const { disk } = machine()
    expect(() => disk.function.restoreState(value)).toThrow(/^saved state: /)
  })

  it("make the device need a reset if saved ring addresses lie outside RAM", async () => {
    const { vm, disk } = machine()
    await driver(vm)
    const state = saved(disk) as { device: { queues: { descriptorTable: number }[] } }
    Object.assign(state.device.queues[0] ?? {}, { descriptorTable: 2 ** 60 })
    disk.function.restoreState(state)
    disk.device.resume()
    expect(disk.device.virtio.status & 64).toBe(64)
    expect(disk.device.brokenBy?.message).toMatch(/descriptor table at 0x1000000000000000/)
  })
})
