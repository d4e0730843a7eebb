/** Disks that come and go while a v86 machine runs: with a guest that must look for itself, and with ACPI hot-plug. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { attachToV86 } from "../../../src/vmm/v86/attach.ts"
import { AcpiGuest } from "../acpi-guest.ts"
import { promiseBacking } from "../../harness/fake-disk.ts"
import { FakeV86 } from "./fake-v86.ts"

const disk = (): MemoryBacking => new MemoryBacking({ size: 1 << 20 })
const SCI = 9

/** A machine that runs, with a disk in slot 9 from the start. */
function machine(options: { readonly acpi?: boolean } = {}) {
  const vm = new FakeV86(options)
  const first = attachToV86(vm, disk(), { slot: 9 })
  vm.start()
  const guest = new AcpiGuest(vm)
  if (options.acpi === true) guest.start()
  return { vm, first, guest }
}

/** One round of v86's timers; returns the level of the SCI after it. */
function sci(vm: FakeV86): boolean {
  vm.acpi?.timer(0)
  return vm.pci.lines.get(SCI) ?? false
}

describe("a disk attached to a running machine", () => {
  it.each([
    8, 13, 14, 15, 16,
  ])("has in slot %i the interrupt line of the PIRQ routing registers, as by firmware", (slot) => {
    const { vm } = machine()
    vm.pci.isa_bridge_space8.set([5, 9, 10, 11], 0x60)
    attachToV86(vm, disk(), { slot })
    // INTA# of slot 1 is routed by PIRQA, of slot 2 by PIRQB, and so on
    expect(vm.config(slot, 0x3c, 1)).toBe([11, 5, 9, 10][slot % 4])
    expect(vm.pci.device_spaces[slot << 3]?.[15]).toBe(vm.config(slot, 0x3c, 4))
  })

  it("has no line if the router is off, or firmware has yet to run", () => {
    const { vm } = machine()
    vm.pci.isa_bridge_space8.set([0x80, 0x8b, 0, 0], 0x60)
    for (const slot of [13, 14, 15, 16]) attachToV86(vm, disk(), { slot })
    expect([13, 14, 15, 16].map((slot) => vm.config(slot, 0x3c, 1))).toEqual([0xff, 0xff, 0, 0])
  })

  it("works for a driver that scans the bus again, and can leave while the guest goes on", async () => {
    const { vm } = machine()
    const content = disk()
    const late = attachToV86(vm, content, { slot: 13, serial: "late" })
    vm.assign(13, 0xd000)
    const found = findBlockDevices(vm).at(-1)
    if (found === undefined) throw new Error("the driver finds no disk")
    const blk = await BlockDriver.open(found)
    await blk.write(3, new Uint8Array(512).fill(7))
    const written = new Uint8Array(512)
    content.pread(written, 3 * 512)
    expect([await blk.getId(), written[0]]).toEqual(["late", 7])
    await late.detach()
    expect([late.slot, findBlockDevices(vm).length, vm.config(13, 0, 4)]).toEqual([undefined, 1, 0xffff_ffff])
  })

  it("is gone for v86 once detached: writes to its configuration space do not reach v86, which would stop", async () => {
    const { vm, first } = machine()
    await first.detach()
    for (const width of [1, 2, 4] as const) vm.config(9, 0x04, width, 0)
    vm.portWrite(0xcf8, 4, 9 * 0x800) // not enabled
    vm.portWrite(0xcfc, 2, 0)
    expect(vm.config(9, 0x04, 2)).toBe(0xffff)
  })

  it("cannot be requested to eject without ACPI", async () => {
    const { first } = machine()
    await expect(first.eject()).rejects.toThrow("the v86 machine was made without acpi: true, so its guest cannot be asked to eject a disk")
    expect(first.slot).toBe(9)
  })
})

describe("with ACPI", () => {
  it("the hot-plug ports, which do not read all ones, ask for no eject at first", () => {
    const { vm, guest } = machine({ acpi: true })
    expect([vm.portRead(0xae00, 4), vm.portRead(0xae04, 4), vm.portRead(0xafe0, 1)]).toEqual([0, 0, 0])
    expect(sci(vm)).toBe(false)
    vm.pci.register_device({ pci_id: 5 << 3, pci_space: new Uint8Array(256), pci_bars: [], name: "v86's own" })
    expect([1, 5, 9, 10].map((slot) => guest.removable.includes(slot))).toEqual([true, false, true, true])
  })

  it("a new disk is announced, and the interrupt stays high over v86's timer until the event is cleared", () => {
    const { vm, guest } = machine({ acpi: true })
    attachToV86(vm, disk(), { slot: 13 })
    expect([sci(vm), sci(vm)]).toEqual([true, true])
    expect(guest.handle()).toEqual(["check 13"])
    expect([vm.pci.lines.get(SCI), sci(vm)]).toEqual([false, false])
  })

  it("the PM timer keeps its interrupt while our event is cleared", () => {
    const { vm, guest } = machine({ acpi: true })
    attachToV86(vm, disk(), { slot: 13 })
    if (vm.acpi !== undefined) vm.acpi.pm1_status = vm.acpi.pm1_enable = 1
    expect(sci(vm)).toBe(true)
    guest.handle()
    expect(vm.pci.lines.get(SCI)).toBe(true)
  })

  it("eject asks the guest, and resolves when the guest has released the disk and no request is in flight", async () => {
    const vm = new FakeV86({ acpi: true })
    const attached = attachToV86(vm, promiseBacking(disk()), { slot: 9 })
    vm.start()
    const guest = new AcpiGuest(vm)
    guest.start()
    let done = false
    const ejected = attached.eject().then(() => {
      done = true
    })
    expect(guest.handle()).toEqual(["eject 9"])
    await new Promise((resolve) => setImmediate(resolve))
    expect([done, attached.slot]).toEqual([false, 9])
    guest.eject(9)
    expect([attached.slot, vm.config(9, 0, 4)]).toEqual([undefined, 0xffff_ffff])
    await ejected
  })

  it("eject resolves too when the disk is detached, or the machine reset, before the guest answers", async () => {
    const { vm, first } = machine({ acpi: true })
    const second = attachToV86(vm, disk(), { slot: 13 })
    const ejected = [first.eject(), second.eject()]
    await first.detach()
    vm.reboot()
    await Promise.all(ejected)
    expect([first.slot, second.slot, vm.config(13, 0, 4)]).toEqual([undefined, undefined, 0xffff_ffff])
  })

  it("a guest may eject a disk by itself, but no device of v86", () => {
    const { vm, first, guest } = machine({ acpi: true })
    vm.pci.register_device({ pci_id: 5 << 3, pci_space: new Uint8Array(256).fill(1), pci_bars: [], name: "v86's own" })
    for (const slot of [5, 9, 20]) guest.eject(slot)
    expect([first.slot, vm.config(9, 0, 4), vm.config(5, 0, 4)]).toEqual([undefined, 0xffff_ffff, 0x0101_0101])
  })

  it("pending events are saved and restored with the machine", async () => {
    const { vm } = machine({ acpi: true })
    attachToV86(vm, disk(), { slot: 13 })
    const state = await vm.save_state()
    const target = new FakeV86({ acpi: true })
    for (const slot of [9, 13]) attachToV86(target, disk(), { slot })
    target.start()
    await target.restore_state(state)
    expect(sci(target)).toBe(true)
    expect(new AcpiGuest(target).handle()).toEqual(["check 13"])
  })
})
