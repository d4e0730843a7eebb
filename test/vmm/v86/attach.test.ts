/** attachToV86 on a machine that behaves as v86 does: slots, BARs, shared interrupts, saved state, reset. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { attachToV86, type V86DiskOptions } from "../../../src/vmm/v86/attach.ts"
import { guestBytes } from "../../../src/virtio/guest-memory.ts"
import { V86Memory, type V86Ram } from "../../../src/vmm/v86/memory.ts"
import { promiseBacking } from "../../harness/fake-disk.ts"
import { FakeV86 } from "./fake-v86.ts"

const SIZE = 1 << 20

function machine(
  options: V86DiskOptions = {},
  backing: ConstructorParameters<typeof MemoryBacking>[0] | ReturnType<typeof promiseBacking> = { size: SIZE },
) {
  const vm = new FakeV86()
  const disk = attachToV86(vm, "pread" in backing ? backing : new MemoryBacking(backing), { slot: 9, ...options })
  vm.start()
  vm.assign(9, 0xc000)
  return { vm, disk }
}

async function driver(vm: FakeV86, legacy = false): Promise<BlockDriver> {
  const [found] = findBlockDevices(vm)
  if (found === undefined) throw new Error("the driver finds no disk")
  return BlockDriver.open(found, legacy ? { transport: "legacy" } : {})
}

const sector = (text: string): Uint8Array => new TextEncoder().encode(text.padEnd(512, "."))

describe("a disk in v86", () => {
  it.each(["modern", "legacy", "transitional"] as const)("is found, written and read by a driver, with a %s device", async (kind) => {
    const { vm, disk } = machine({ interface: kind, serial: "in-v86" })
    expect(disk.slot).toBe(9)
    expect(vm.config(9, 0, 4)).toBe(kind === "modern" ? 0x1042_1af4 : 0x1001_1af4)
    const blk = await driver(vm, kind === "legacy")
    await blk.write(7, sector("hello"))
    await blk.flush()
    expect(await blk.read(7, 1)).toEqual(sector("hello"))
    expect(await blk.getId()).toBe("in-v86")
    expect(disk.device.statistics.write.requests).toBe(1)
  })

  it.each([
    "devices.pci.devices", "devices.pci.raise_irq", "devices.pci.get_state", "io.ports", "mem8", "wasm_memory", "jit_dirty_cache",
    "device_raise_irq", "reboot_internal",
  ])("is refused by a v86 without %s, as of another build, by name and without a change", (path) => {
    const vm = new FakeV86()
    vm.start()
    const { cpu } = vm.v86 as { readonly cpu: { readonly devices: { readonly pci: Record<string, unknown> } } }
    const names = path.split(".")
    const last = names.pop() ?? ""
    const owner = names.reduce<object>((value, name) => Reflect.get(value, name) as object, cpu)
    Object.defineProperty(owner, last, { value: undefined })
    const before = { ...cpu.devices.pci }
    expect(() => attachToV86(vm, new MemoryBacking({ size: SIZE }))).toThrow(
      new RegExp(`^attachToV86: emulator\\.v86\\.cpu\\.${path.replaceAll(".", "\\.")}.* is not an? .*: this is not v86 0\\.5\\.462`),
    )
    expect(cpu.devices.pci).toEqual(before)
  })

  it("takes readOnly and onError: the guest finds a read-only disk, and onError gets a failure of the backing", async () => {
    const failures: unknown[] = []
    const backing = new MemoryBacking({ size: SIZE })
    const { vm, disk } = machine({ readOnly: true, onError: (error) => void failures.push(error) }, backing)
    const blk = await driver(vm)
    expect([disk.device.readOnly, blk.identify().readOnly]).toEqual([true, true])
    await expect(blk.write(0, sector("no"))).rejects.toThrow("IOERR")
    backing.close()
    await expect(blk.read(0, 1)).rejects.toThrow("IOERR")
    expect(failures).toEqual([disk.device.lastError])
    expect(String(failures[0])).toContain("the disk is closed")
  })

  it("reports every byte of RAM that it stores to v86, which drops compiled code there", async () => {
    const { vm } = machine()
    const blk = await driver(vm)
    await blk.write(0, sector("code"))
    vm.dirty.length = 0
    const before = vm.ram.slice()
    await blk.read(0, 1)
    const now = vm.ram
    const announced = new Uint8Array(now.length)
    for (const [start, end] of vm.dirty) announced.fill(1, start, end)
    const data = now.findIndex((_, at) => Buffer.from(now.buffer, now.byteOffset + at, 4).toString() === "code")
    expect(data).toBeGreaterThan(0)
    expect([...announced.subarray(data, data + 512)].every((byte) => byte === 1)).toBe(true)
    expect(before.length).toBe(now.length)
  })

  it("follows its RAM when the WebAssembly memory grows", async () => {
    const { vm } = machine()
    const blk = await driver(vm)
    await blk.write(1, sector("before"))
    const old = vm.memory.buffer
    vm.memory.grow(1)
    expect(old.byteLength).toBe(0)
    expect(await blk.read(1, 1)).toEqual(sector("before"))
  })

  it("moves with its BAR, restores earlier handlers there, and does not answer while decoding is off", () => {
    const { vm } = machine({ interface: "legacy" })
    const queueSize = (port: number) => vm.portRead(port + 0x0c, 2)
    expect(queueSize(0xc000)).toBe(256)
    const other = { ...vm.ports[0xd00c] }
    vm.config(9, 0x10, 4, 0xd000)
    expect([queueSize(0xc000), queueSize(0xd000)]).toEqual([0xffff, 256])
    vm.config(9, 0x04, 2, 0)
    expect(queueSize(0xd000)).toBe(0xffff)
    expect(vm.ports[0xd00c]).toEqual(other)
    vm.config(9, 0x04, 2, 1)
    expect(queueSize(0xd000)).toBe(256)
  })

  it("leaves configuration accesses to v86's own devices to v86, and answers in any width", () => {
    const { vm } = machine()
    const space = vm.pci.register_device({
      pci_id: 3 << 3, pci_space: Uint8Array.from({ length: 256 }, (_, at) => at), pci_bars: [], name: "other",
    })
    expect(space.length).toBe(64)
    expect(vm.config(3, 0x08, 4)).toBe(0x0b0a_0908)
    expect([vm.config(9, 2, 2), vm.config(9, 2, 1), vm.config(9, 3, 1)]).toEqual([0x1001, 0x01, 0x10])
    expect(vm.config(4, 0, 4)).toBe(0xffff_ffff)
  })

  it("shares an interrupt line: it stays high while any device of the line holds it", () => {
    const { vm } = machine()
    const other = (9 + 4) << 3 // four slots on, the same pin
    vm.pci.register_device({
      pci_id: other,
      pci_space: Uint8Array.from({ length: 256 }, (_, at) => (at === 0x3d ? 1 : 0)),
      pci_bars: [],
      name: "other",
    })
    const line = vm.pci.line(9 << 3)
    expect(vm.pci.line(other)).toBe(line)
    vm.pci.raise_irq(other)
    vm.pci.raise_irq(9 << 3)
    vm.pci.lower_irq(other)
    expect(vm.pci.lines.get(line)).toBe(true)
    vm.pci.lower_irq(9 << 3)
    expect(vm.pci.lines.get(line)).toBe(false)
  })

  it("is reset with the machine, and uses nothing of its setup before", async () => {
    const { vm, disk } = machine()
    await driver(vm)
    expect(disk.device.virtio.status).not.toBe(0)
    vm.reboot()
    expect([disk.device.virtio.status, vm.reboots, vm.config(9, 0x04, 2)]).toEqual([0, 1, 0])
  })

  it.each([
    "modern", "legacy",
  ] as const)("ST-03 ends requests in flight at a reboot: they store nothing, and a %s driver starts anew", async (kind) => {
    const { vm, disk } = machine({ interface: kind }, promiseBacking(new MemoryBacking({ size: SIZE })))
    const blk = await driver(vm, kind === "legacy")
    await blk.write(3, sector("kept"))
    const old = [blk.read(0, 8), blk.write(5, sector("old life"))].map((request) => request.catch((error: unknown) => error))
    vm.reboot()
    expect(disk.device.virtio.status).toBe(0)
    const [ram, raised] = [vm.ram.slice(), vm.pci.raised]
    await disk.device.whenIdle()
    expect([Buffer.compare(vm.ram, ram), vm.pci.raised, vm.pci.lines.get(vm.pci.line(9 << 3)) ?? false]).toEqual([0, raised, false])
    vm.assign(9, 0xd000)
    const again = await driver(vm, kind === "legacy")
    await again.write(5, sector("new life"))
    expect([await again.read(3, 1), await again.read(5, 1)]).toEqual([sector("kept"), sector("new life")])
    void old
  })

  it("picks free slots in the order of attaching, and refuses one that is taken", () => {
    const vm = new FakeV86()
    const disks = [attachToV86(vm, new MemoryBacking({ size: SIZE })), attachToV86(vm, new MemoryBacking({ size: SIZE }))]
    vm.start()
    expect(disks.map((disk) => disk.slot)).toEqual([15, 16])
    expect(() => attachToV86(vm, new MemoryBacking({ size: SIZE }), { slot: 15 })).toThrow("PCI slot 15 of the v86 machine is taken")
    expect(() => attachToV86(vm, new MemoryBacking({ size: SIZE }), { slot: 32 })).toThrow(RangeError)
  })

  it("leaves nothing on the bus or at its ports when it is detached, and its line low", async () => {
    const { vm, disk } = machine({ interface: "legacy" })
    expect(vm.portRead(0xc00c, 2)).toBe(256)
    await disk.detach()
    expect([vm.config(9, 0, 4), vm.portRead(0xc00c, 2), disk.slot]).toEqual([0xffff_ffff, 0xffff, undefined])
  })

  it("leaves the guest alone once it is detached, also with requests in flight", async () => {
    const { vm, disk } = machine({}, promiseBacking(new MemoryBacking({ size: SIZE })))
    const blk = await driver(vm)
    const read = blk.read(0, 8).catch((error: unknown) => error)
    const gone = disk.detach()
    const before = vm.ram.slice()
    const raised = vm.pci.raised
    await gone
    expect(Buffer.compare(vm.ram, before)).toBe(0)
    expect([vm.pci.raised, vm.pci.lines.get(10) ?? false]).toEqual([raised, false])
    void read
  })

  it("answers only on bus 0, and only while the address register has its enable bit", () => {
    const { vm } = machine()
    for (const address of [0x8000_0000, 0x8080_0000, 0x8001_0000, 0x0000_0000]) {
      vm.portWrite(0xcf8, 4, address + 9 * 0x800)
      expect(vm.portRead(0xcfc, 4) === 0x1001_1af4).toBe(address === 0x8000_0000)
    }
  })

  it("sees RAM on both sides of the VGA window, and none in it or beyond the end", () => {
    const vm = new FakeV86()
    vm.start()
    const memory = new V86Memory((vm.v86 as { cpu: V86Ram }).cpu)
    expect(
      [0x9_ffff, 0xa_0000, 0xb_ffff, 0xc_0000, 0x1f_ffff, 0x20_0000, -1, 2 ** 53].map((address) => memory.region(address) !== undefined),
    ).toEqual([true, false, false, true, true, false, false, false])
    vm.ram[0x9_fffe] = 1
    vm.ram[0xc_0000] = 2
    expect([
      guestBytes(memory, 0x9_fffe, 2)?.[0],
      guestBytes(memory, 0x9_fffe, 3),
      guestBytes(memory, 0xc_0000, 1)?.[0],
    ]).toEqual([1, undefined, 2])
  })
})

describe("save_state and restore_state", () => {
  it.each(["modern", "legacy"] as const)("carry a running %s device into another machine, where its driver goes on", async (kind) => {
    const { vm } = machine({ interface: kind })
    const blk = await driver(vm, kind === "legacy")
    for (let round = 0; round < 300; round++) await blk.write(round % 16, sector(`round ${round}`))
    const state = await vm.save_state()

    const content = new MemoryBacking({ size: SIZE })
    content.pwrite(sector("other disk"), 5 * 512)
    const target = new FakeV86()
    const copy = attachToV86(target, content, { slot: 9, interface: kind })
    target.start()
    await target.restore_state(state)
    await new Promise((resolve) => setTimeout(resolve, 1))
    // v86 would have restored the driver's memory with the processor. Here the driver goes on with the other machine.
    expect(copy.device.virtio.status).toBe(kind === "legacy" ? 7 : 15)
    expect(target.portRead(0xc000 + 0x12, kind === "legacy" ? 1 : 2)).toBe(kind === "legacy" ? 7 : 2) // device status; number of queues
    replace(vm, target)
    expect(await blk.read(5, 1)).toEqual(sector("other disk"))
    await blk.write(6, sector("written after"))
    expect(copy.device.statistics.write.requests).toBe(1)
  })

  it("wait for requests in flight, hold back new ones meanwhile, and serve them afterwards", async () => {
    const { vm, disk } = machine({}, promiseBacking(new MemoryBacking({ size: SIZE })))
    const blk = await driver(vm)
    const early = Promise.all([0, 1, 2, 3].map((at) => blk.write(at, sector(`early ${at}`))))
    const saving = vm.save_state()
    const late = blk.write(9, sector("late"))
    const state = await saving
    expect(Buffer.from(state).toString()).toContain("vioblk-pci-1")
    await early
    await late
    expect(disk.device.statistics.write.requests).toBe(5)
  })

  it("reset a disk that the state does not have, and refuse an invalid state in one line", async () => {
    const vm = new FakeV86()
    vm.start()
    const bare = await vm.save_state()
    const { vm: other, disk } = machine()
    await driver(other)
    await other.restore_state(bare)
    expect(disk.device.virtio.status).toBe(0)
    const forged = JSON.parse(Buffer.from(bare).toString()) as { pci: unknown[] }
    forged.pci.push([
      "vioblk-pci-1",
      [],
      9 << 3,
      JSON.stringify({ version: 1, isr: 0, vectors: [65535, 65535, 65535], selects: [0, 0, 0, 0], device: { status: 15 } }),
    ])
    await expect(
      other.restore_state(new Uint8Array(Buffer.from(JSON.stringify(forged))).buffer),
    ).rejects.toThrow(/^saved state: PCI function: not an object$/)
    expect(disk.device.virtio.status).toBe(0)
  })
})

/** Makes whatever drives `from` drive `to`, as a restored guest does. */
function replace(from: FakeV86, to: FakeV86): void {
  Object.defineProperty(from, "ram", { get: () => to.ram })
  from.portRead = (port, width) => to.portRead(port, width)
  from.portWrite = (port, width, value) => to.portWrite(port, width, value)
  to.pci.onInterrupt = from.pci.onInterrupt
  from.interrupts.level = (line) => to.interrupts.level(line)
}
