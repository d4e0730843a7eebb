/**
 * What a driver's callers hear when the device goes away, is reset by somebody else, breaks, or forgets to interrupt: no promise is left
 * open.
 */
import { describe, expect, it } from "vitest"
import { BlockDriver, findBlockDevices } from "../../../../src/vmm/driver/block/driver.ts"
import type { BlockDriverOptions } from "../../../../src/vmm/driver/block/options.ts"
import type { PciDevice } from "../../../../src/vmm/driver/pci/device.ts"
import { RamAllocator } from "../../../../src/vmm/driver/ram-allocator.ts"
import { InterruptRouter } from "../../../../src/vmm/driver/virtio/interrupts.ts"
import { type AttachDiskOptions, type AttachedDisk, Machine } from "../../../../src/vmm/machine.ts"
import { FakeDisk, heldDisk } from "../../../harness/fake-disk.ts"
import { ModernGuest } from "../../../harness/registers.ts"
import { ModelDisk } from "./model-disk.ts"

const SIZE = 1 << 20
const GONE = { name: "DriverError", code: "gone" }

interface Bench {
  readonly machine: Machine
  readonly held: FakeDisk
  readonly disk: AttachedDisk
  readonly pci: PciDevice
  readonly memory: RamAllocator
  readonly open: (options?: BlockDriverOptions) => Promise<BlockDriver>
}

/** A disk of which every call waits until the test answers it. */
function bench(options: AttachDiskOptions = {}): Bench {
  const machine = new Machine({ ramSize: 8 << 20 })
  const held = heldDisk(new Uint8Array(SIZE))
  const disk = machine.attachDisk(held, options)
  const [pci] = findBlockDevices(machine)
  if (pci === undefined) throw new Error("no disk on the bus")
  const memory = new RamAllocator({ start: 1 << 20, length: 4 << 20 })
  return { machine, held, disk, pci, memory, open: (more = {}) => BlockDriver.open(pci, { memory, watchInterval: 1, ...more }) }
}

/** One of each way to have a promise open; more reads than the ring of 8 has room for, and more than there is memory for. */
function everything(blk: BlockDriver): Promise<unknown>[] {
  // A FLUSH by hand.
  blk.virtio.ram.bytes[0x1000] = 4
  const [head = 0] = blk.virtio.queues[0]?.ring.reserve(1) ?? []
  return [
    blk.whenUsed(head),
    blk.submit([{ address: 0x1000, length: 16, writable: false }, { address: 0x1010, length: 1, writable: true }]),
    blk.read(0, 1),
    blk.readInto(0, new Uint8Array(SIZE)),
    blk.write(8, new Uint8Array(512)),
    blk.flush(),
    ...Array.from({ length: 40 }, (_, at) => blk.read(at, 512)),
    blk.getId(),
    blk.request({ type: 99 }),
  ]
}

describe.each(["msix", "intx", "none"] as const)("with interrupts by %s", (interrupts) => {
  it("ST-03 after an unplug requests in flight, waiting and later ones reject with gone", async () => {
    const { machine, disk, memory, open } = bench()
    const blk = await open({ interrupts, queueSize: 8 })
    const outcomes = Promise.allSettled(everything(blk))
    machine.unplug(disk.slot)
    for (const outcome of await outcomes) expect(outcome).toMatchObject({ status: "rejected", reason: GONE })
    await expect(blk.read(0, 1)).rejects.toMatchObject(GONE)
    expect(blk.failure).toMatchObject(GONE)
    expect(() => blk.identify()).toThrow(expect.objectContaining(GONE))
    await expect(blk.reset()).rejects.toMatchObject({ code: "no-device" })
    await blk.close()
    expect(memory.allocations).toBe(0)
  })

  it("ST-03 after an unplug while nothing is in flight the next request rejects with gone", async () => {
    const { machine, disk, open } = bench()
    const blk = await open({ interrupts })
    machine.unplug(disk.slot)
    await expect(blk.read(0, 1)).rejects.toMatchObject(GONE)
  })

  it("ST-03 after a machine reset requests in flight and waiting reject with gone, and the driver can reset and go on", async () => {
    const { machine, held, memory, open } = bench()
    const blk = await open({ interrupts, queueSize: 8 })
    const outcomes = Promise.allSettled(everything(blk))
    machine.reset()
    for (const outcome of await outcomes) expect(outcome).toMatchObject({ status: "rejected", reason: GONE })
    held.waits = () => false
    // What the disk answers now reaches nobody.
    const before = machine.ram.slice()
    while (held.waiting.length > 0) await held.finishNext()
    expect(Buffer.compare(before, machine.ram)).toBe(0)
    await blk.reset()
    expect(await blk.read(0, 1)).toEqual(new Uint8Array(512))
    await blk.close()
    expect(memory.allocations).toBe(0)
  })
})

describe("other ways to lose a device", () => {
  it("identify after an unplug throws gone, and does not take all ones for a capacity", async () => {
    const { machine, disk, open } = bench()
    const blk = await open()
    machine.unplug(disk.slot)
    expect(() => blk.identify()).toThrow(expect.objectContaining(GONE))
    expect(blk.failure).toMatchObject(GONE)
  })

  it("ST-03 a request rejects with gone when another program writes 0 to the status register", async () => {
    const { machine, held, disk, open } = bench()
    const blk = await open()
    const read = blk.read(0, 1)
    new ModernGuest(machine, disk.slot).status = 0
    await expect(read).rejects.toMatchObject(GONE)
    await held.finishNext()
  })

  it("a driver does not take another disk at the old registers for its own", async () => {
    const { machine, disk, open } = bench({ slot: 3 })
    const blk = await open()
    const read = blk.read(0, 1)
    const place = (blk.virtio.pci.bars()[0]?.address ?? 0)
    machine.unplug(disk.slot)
    const next = machine.attachDisk(new FakeDisk(), { slot: 4 })
    const [pci] = findBlockDevices(machine)
    if (pci === undefined) throw new Error("no disk on the bus")
    expect([next.slot, pci.bars()[0]?.address]).toEqual([4, place])
    const other = await BlockDriver.open(pci)
    await expect(read).rejects.toMatchObject(GONE)
    expect(await other.read(0, 1)).toEqual(new Uint8Array(512))
  })

  it.each([
    "device", "queue",
  ] as const)("an unplug ends the wait for a reset of the %s before its time limit", async (what) => {
    const { machine, disk, open } = bench()
    const blk = await open({ resetTimeout: 2 ** 31 - 1 })
    const read = blk.read(0, 1).catch((error: unknown) => error)
    const { transport } = blk.virtio
    // A device that takes its time, as the specification allows.
    const [status, isQueueReset] = [() => (machine.pci.function(disk.slot) === undefined ? 0xff : 1), () => false]
    if (what === "device") Object.defineProperty(transport, "status", { get: status, set: () => undefined })
    else Object.defineProperty(transport, "isQueueReset", { value: isQueueReset })
    const reset = what === "device" ? blk.reset() : blk.resetQueue(0)
    setImmediate(() => machine.unplug(disk.slot))
    await expect(reset).rejects.toMatchObject({ name: "DriverError", code: what === "device" ? "no-device" : "gone" })
    expect(await read).toMatchObject({ code: "reset" })
  })

  it("on a shared line the driver of an unplugged disk claims no interrupt, and its requests reject at once", async () => {
    const machine = new Machine({ ramSize: 8 << 20 })
    const old = machine.attachDisk(heldDisk(new Uint8Array(SIZE)), { slot: 1 })
    machine.attachDisk(new FakeDisk(), { slot: 5 })
    const [first, second] = await Promise.all(
      findBlockDevices(machine).map((pci) => BlockDriver.open(pci, { interrupts: "intx", watchInterval: 2 ** 31 - 1 })),
    )
    if (first === undefined || second === undefined) throw new Error("no disks")
    const read = first.read(0, 1)
    machine.unplug(old.slot)
    const router = InterruptRouter.of(machine)
    const { spurious } = router
    await second.flush()
    await expect(read).rejects.toMatchObject(GONE)
    // A line that nobody claims is what a driver of a device that is not there must leave behind.
    machine.interrupts.connect(old.line).intx(true)
    expect(router.spurious).toBe(spurious + 1)
  })

  it("ST-12 DEVICE_NEEDS_RESET is noticed without an interrupt", async () => {
    const model = new ModelDisk()
    model.isHolding = true
    const blk = await BlockDriver.open(model.pci, { memory: model.memory, watchInterval: 1 })
    const read = blk.read(1, 1)
    model.status |= 0x40
    await expect(read).rejects.toMatchObject({ code: "needs-reset" })
  })

  it("a request without an interrupt is found in the used ring", async () => {
    const model = new ModelDisk()
    const blk = await BlockDriver.open(model.pci, { memory: model.memory, watchInterval: 1 })
    model.interrupt = () => undefined
    expect(await blk.read(7, 1)).toEqual(new Uint8Array(512).fill(7))
    await blk.flush()
    expect(blk.virtio.counters.interrupts).toBe(0)
  })
})

describe("the state that another driver left", () => {
  it("PCI-32 may have MSI-X with Function Mask set and every vector masked", async () => {
    const { held, pci, open } = bench()
    held.waits = () => false
    const msix = pci.msix()
    if (msix === undefined) throw new Error("no MSI-X")
    msix.enabled = true
    msix.functionMasked = true
    const blk = await open({ watchInterval: 2 ** 31 - 1 })
    expect(await blk.read(0, 1)).toEqual(new Uint8Array(512))
    expect([blk.virtio.counters.interrupts, msix.functionMasked]).toEqual([1, false])
  })

  it("PCI-32 is left by our driver with MSI-X off and not masked", async () => {
    const { pci, open } = bench()
    const blk = await open()
    await blk.close()
    expect([pci.msix()?.enabled, pci.msix()?.functionMasked]).toEqual([false, false])
  })
})
