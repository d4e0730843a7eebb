/** ACPI PCI hot-plug on a Machine: what a guest reads and writes at the ports, when it is interrupted, what leaves the bus. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { PciHotplug } from "../../src/vmm/pci-hotplug.ts"
import { AcpiGuest } from "./acpi-guest.ts"

const SCI = 9
const disk = (): MemoryBacking => new MemoryBacking({ size: 1 << 20 })

function machine() {
  const ejected: number[] = []
  const vm = new Machine({ ramSize: 1 << 20, ejected: (slot) => ejected.push(slot) })
  const guest = new AcpiGuest(vm)
  guest.start()
  return { vm, guest, ejected }
}

const present = (vm: Machine, slot: number): boolean => {
  vm.portWrite(0xcf8, 4, 0x8000_0000 + slot * 0x800)
  return vm.portRead(0xcfc, 4) !== 0xffff_ffff
}

describe("ACPI hot-plug", () => {
  it("announces a new disk by one interrupt and one slot to check", () => {
    const { vm, guest } = machine()
    expect(vm.interrupts.level(SCI)).toBe(false)
    vm.attachDisk(disk(), { slot: 7 })
    expect(vm.interrupts.level(SCI)).toBe(true)
    expect(guest.handle()).toEqual(["check 7"])
    expect(vm.interrupts.level(SCI)).toBe(false)
  })

  it("interrupts only while the guest has enabled the event, and keeps it pending until then", () => {
    const { vm, guest } = machine()
    vm.portWrite(0xafe2, 2, 0)
    vm.attachDisk(disk(), { slot: 3 })
    expect([vm.interrupts.level(SCI), vm.portRead(0xafe0, 2)]).toEqual([false, 2])
    vm.portWrite(0xafe2, 1, 2)
    expect(vm.interrupts.level(SCI)).toBe(true)
    expect(guest.handle()).toEqual(["check 3"])
  })

  it("asks the guest to release a disk, and its eject takes the disk off the bus and reports that", () => {
    const { vm, guest, ejected } = machine()
    vm.attachDisk(disk(), { slot: 31 })
    guest.handle()
    vm.requestEject(31)
    expect(vm.interrupts.level(SCI)).toBe(true)
    expect(guest.handle()).toEqual(["check 31", "eject 31"])
    expect([present(vm, 31), ejected]).toEqual([true, []])
    guest.eject(31)
    expect([present(vm, 31), ejected, vm.portRead(0xae00, 4), vm.portRead(0xae04, 4)]).toEqual([false, [31], 0, 0])
    vm.attachDisk(disk(), { slot: 31 })
    expect(guest.handle()).toEqual(["check 31"])
  })

  it("lets a guest eject a disk unasked, but not an empty slot or the host bridge", () => {
    const { vm, guest, ejected } = machine()
    vm.attachDisk(disk(), { slot: 4 })
    for (const slot of [0, 4, 5]) guest.eject(slot)
    expect([present(vm, 0), present(vm, 4), ejected]).toEqual([true, false, [4]])
    expect(() => vm.requestEject(4)).toThrow("slot 4 holds nothing that can be ejected")
    expect(() => vm.requestEject(0)).toThrow("slot 0 holds nothing that can be ejected")
  })

  it("reports a disk that was pulled, and takes the guest's eject as an acknowledgement", () => {
    const { vm, guest, ejected } = machine()
    vm.attachDisk(disk(), { slot: 6 })
    guest.handle()
    vm.detachDisk(6)
    expect(guest.handle()).toEqual(["eject 6"])
    guest.eject(6)
    expect([ejected, vm.portRead(0xae04, 4), vm.interrupts.level(SCI)]).toEqual([[], 0, false])
  })

  it("announces another disk in a slot once the guest has released the one that was pulled, which ejects neither", () => {
    const { vm, guest, ejected } = machine()
    vm.attachDisk(disk(), { slot: 6 })
    guest.handle()
    vm.detachDisk(6)
    vm.attachDisk(disk(), { slot: 6 })
    expect(guest.handle()).toEqual(["eject 6"])
    expect(vm.interrupts.level(SCI)).toBe(false)
    guest.eject(6)
    expect([present(vm, 6), ejected, vm.interrupts.level(SCI)]).toEqual([true, [], true])
    expect(guest.handle()).toEqual(["check 6"])
    guest.eject(6)
    expect([present(vm, 6), ejected]).toEqual([false, [6]])
  })

  it("announces a slot with its function 0, and ejects all functions of a slot together, function 0 last", () => {
    const ejected: string[] = []
    const vm = new Machine({ ramSize: 1 << 20, ejected: (slot, fn) => ejected.push(`${slot} ${fn === first.function}`) })
    const guest = new AcpiGuest(vm)
    guest.start()
    vm.attachDisk(disk(), { slot: 7, functionNumber: 3 })
    expect(vm.interrupts.level(SCI)).toBe(false)
    const first = vm.attachDisk(disk(), { slot: 7 })
    expect(guest.handle()).toEqual(["check 7"])
    expect(() => vm.detachDisk(7)).toThrow("take out function 3 of slot 7 first")
    vm.requestEject(7)
    expect(guest.handle()).toEqual(["check 7", "eject 7"])
    guest.eject(7)
    expect([present(vm, 7), ejected]).toEqual([false, ["7 false", "7 true"]])

    vm.attachDisk(disk(), { slot: 7, functionNumber: 3 })
    vm.attachDisk(disk(), { slot: 7 })
    guest.handle()
    vm.detachDisk(7, 3)
    expect(vm.interrupts.level(SCI)).toBe(false)
    expect(() => vm.detachDisk(7, 3)).toThrow("function 3 of slot 7 holds no disk")
    vm.detachDisk(7)
    expect(guest.handle()).toEqual(["eject 7"])
  })

  it("drops all events at a reset, and ejects disks that were asked for", () => {
    const { vm, guest, ejected } = machine()
    for (const slot of [1, 2, 3]) vm.attachDisk(disk(), { slot })
    vm.requestEject(2)
    vm.detachDisk(3)
    vm.reset()
    expect([1, 2, 3].map((slot) => present(vm, slot))).toEqual([true, false, false])
    expect([
      ejected, vm.interrupts.level(SCI), ...[0xae00, 0xae04, 0xafe0].map((port) => vm.portRead(port, 4))
    ]).toEqual([[2], false, 0, 0, 0])
    guest.start()
    expect(vm.interrupts.level(SCI)).toBe(false)
  })

  it("shares its interrupt line with the disks that are wired to it", () => {
    const { vm, guest } = machine()
    const other = vm.interrupts.connect(SCI)
    other.intx(true)
    vm.attachDisk(disk(), { slot: 1 })
    guest.handle()
    expect(vm.interrupts.level(SCI)).toBe(true)
    other.intx(false)
    expect(vm.interrupts.level(SCI)).toBe(false)
  })

  it("shows every slot but the host bridge's as removable, and no further features", () => {
    const { vm, guest } = machine()
    expect(guest.removable).toEqual(Array.from({ length: 31 }, (_, at) => at + 1))
    expect(vm.portRead(0xae08, 4)).toBe(0)
  })

  it("announces no disk that found no room", () => {
    const { vm } = machine()
    vm.attachDisk(disk(), { slot: 1 })
    vm.portWrite(0xafe0, 1, 0xff)
    expect(() => vm.attachDisk(disk(), { slot: 1 })).toThrow("occupied")
    expect([vm.portRead(0xae00, 4), vm.portRead(0xae04, 4), vm.interrupts.level(SCI)]).toEqual([2, 0, false])
  })
})

describe("the ports", () => {
  it("answer in any width; bytes past their ends read all ones, and writes there are dropped", () => {
    const { vm } = machine()
    vm.attachDisk(disk(), { slot: 9 })
    vm.attachDisk(disk(), { slot: 31 })
    expect([
      vm.portRead(0xae01, 1), vm.portRead(0xae03, 1), vm.portRead(0xae02, 2), vm.portRead(0xae02, 4),
    ]).toEqual([2, 0x80, 0x8000, 0x8000])
    expect([vm.portRead(0xae0e, 4), vm.portRead(0xafe2, 4)]).toEqual([0xffff_ffff, 0xffff_ffff])
    vm.portWrite(0xafe3, 4, 0x1234_5600)
    expect(vm.portRead(0xafe2, 2)).toBe(0x00ff)
  })

  it("ignore writes to read-only registers; a byte of the eject register ejects among the slots of that byte", () => {
    const { vm, ejected } = machine()
    for (const slot of [9, 16]) vm.attachDisk(disk(), { slot })
    for (const port of [0xae00, 0xae04, 0xae0c]) vm.portWrite(port, 4, 0xffff_ffff)
    expect([vm.portRead(0xae00, 4), ejected]).toEqual([0x0001_0200, []])
    vm.portWrite(0xae09, 1, 0x02)
    expect(ejected).toEqual([9])
    vm.portWrite(0xae08, 4, 0xffff_ffff)
    expect(ejected).toEqual([9, 16])
  })

  it("clear an event only by a write of its bit", () => {
    const { vm } = machine()
    vm.attachDisk(disk(), { slot: 2 })
    vm.portWrite(0xafe0, 1, 0xfd)
    expect(vm.portRead(0xafe0, 1)).toBe(2)
    vm.portWrite(0xafe0, 2, 0x0002)
    expect(vm.portRead(0xafe0, 1)).toBe(0)
  })
})

describe("saved state", () => {
  const levels: boolean[] = []
  const hotplug = (): PciHotplug => new PciHotplug({ sci: (level) => levels.push(level), eject: () => undefined, removable: () => 0 })

  it("has every register, and the pending interrupt", () => {
    const from = hotplug()
    from.write(0xafe2, 2, 0xffff)
    from.plugged(31)
    from.requestEject(4)
    from.unplugged(5)
    from.plugged(5)
    const to = hotplug()
    levels.length = 0
    to.restoreState(JSON.parse(JSON.stringify(from.saveState())))
    expect(levels).toEqual([true])
    for (const port of [0xae00, 0xae04, 0xafe0]) expect(to.read(port, 4)).toBe(from.read(port, 4))
    to.write(0xae08, 4, 1 << 5)
    expect(to.read(0xae00, 4)).toBe(2 ** 31 + 2 ** 5)
  })

  it("is refused if invalid, without a change", () => {
    const registers = hotplug()
    registers.plugged(1)
    for (const state of [[], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0, -1], [0, 0, 0, 0, 0, 2 ** 32], "text", null]) {
      expect(() => registers.restoreState(state)).toThrow(/^saved state: PCI hot-plug registers/)
    }
    expect(registers.read(0xae00, 4)).toBe(2)
    registers.restoreState(undefined)
    expect(registers.read(0xae00, 4)).toBe(0)
  })
})
