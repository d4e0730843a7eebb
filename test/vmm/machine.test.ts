/** A machine: RAM, port and memory accesses, plugging, firmware. */
import { describe, expect, it } from "vitest"
import type { BarDefinition } from "../../src/pci/function.ts"
import { Machine, type PluggedFunction } from "../../src/vmm/machine.ts"
import { ECAM_WINDOW, IO_WINDOW, MAX_RAM_SIZE, MMIO32_WINDOW, MMIO64_WINDOW } from "../../src/vmm/memory-map.ts"
import { composed, OPTIONS, TestFunction, WIDTHS } from "../pci/test-function.ts"

declare const WebAssembly: {
  readonly Memory: new (
    limits: { initial: number; maximum: number; shared?: boolean },
  ) => { readonly buffer: ArrayBuffer; grow(pages: number): number },
}

const PAGE = 65536

const machine = (): Machine => new Machine({ ramSize: PAGE })

function plug(vm: Machine, slot?: number, bars: readonly BarDefinition[] = OPTIONS.bars): PluggedFunction<TestFunction> {
  return vm.plug(slot, ({ interrupts }) => new TestFunction({ ...OPTIONS, bars, interrupts, msix: msixIn(bars) }))
}

/** Two vectors in the first memory BAR that has a page. */
function msixIn(bars: readonly BarDefinition[]): { bar: number; vectors: number; tableOffset: number; pbaOffset: number } {
  const bar = bars.find(({ kind, size }) => kind !== "io" && size >= 4096)
  return { bar: bar?.index ?? 1, vectors: 2, tableOffset: 0x800, pbaOffset: 0xc00 }
}

/** A configuration access as a guest makes it. */
function select(vm: Machine, device: number, register: number): void {
  vm.portWrite(0xcf8, 4, 0x8000_0000 + device * 0x800 + register)
}

function configRead32(vm: Machine, device: number, register: number): number {
  select(vm, device, register)
  return vm.portRead(0xcfc, 4)
}

function configWrite32(vm: Machine, device: number, register: number, value: number): void {
  select(vm, device, register)
  vm.portWrite(0xcfc, 4, value)
}

describe("RAM", () => {
  it("is ramSize bytes from address 0, read and written by MMIO as by index, little-endian and unsigned", () => {
    const vm = machine()
    expect(vm.ram.length).toBe(PAGE)
    expect(vm.ram).toBe(vm.ram)
    vm.mmioWrite(0x101, 4, 0xf234_5678)
    expect([...vm.ram.subarray(0x100, 0x106)]).toEqual([0, 0x78, 0x56, 0x34, 0xf2, 0])
    expect(vm.mmioRead(0x101, 4)).toBe(0xf234_5678)
    vm.mmioWrite(PAGE - 1, 1, -1)
    expect(vm.mmioRead(PAGE - 2, 2)).toBe(0xff00)
    vm.mmioWrite(PAGE - 2, 2, 0x1_2345)
    expect(vm.ram[PAGE - 2]).toBe(0x45)
  })

  it("has an end: an access across it or behind it reads all ones and changes nothing", () => {
    const vm = machine()
    expect([
      vm.mmioRead(PAGE - 1, 2),
      vm.mmioRead(PAGE - 3, 4),
      vm.mmioRead(PAGE, 1),
      vm.mmioRead(-1, 4),
      vm.mmioRead(2 ** 60, 4),
    ]).toEqual([0xffff, 0xffff_ffff, 0xff, 0xffff_ffff, 0xffff_ffff])
    vm.mmioWrite(PAGE - 3, 4, 0x0101_0101)
    expect([...vm.ram.subarray(PAGE - 4)]).toEqual([0, 0, 0, 0])
  })

  it("may lie in an ArrayBuffer, a SharedArrayBuffer or a view of the embedder", () => {
    const shared = new SharedArrayBuffer(2 * PAGE)
    const inShared = new Machine({ ramSize: PAGE, memory: shared })
    inShared.ram[5] = 0xaa
    expect(new Uint8Array(shared)[5]).toBe(0xaa)
    expect(inShared.ram.length).toBe(PAGE)
    const view = new Uint8Array(new ArrayBuffer(PAGE), 4096, 8192)
    const inView = new Machine({ memory: view })
    inView.mmioWrite(0, 1, 0xbb)
    expect([inView.ram.length, view[0]]).toEqual([8192, 0xbb])
  })

  it("follows a WebAssembly memory that grows, with all of it or with ramSize bytes", () => {
    for (const shared of [false, true]) {
      const memory = new WebAssembly.Memory({ initial: 1, maximum: 4, shared })
      const whole = new Machine({ memory })
      const fixed = new Machine({ memory, ramSize: 4096 })
      whole.ram[0x123] = 0x77
      memory.grow(2)
      expect(whole.ram.buffer).toBe(memory.buffer)
      expect([whole.ram.length, whole.ram[0x123]]).toEqual([3 * PAGE, 0x77])
      expect([fixed.ram.length, fixed.ram[0x123]]).toEqual([4096, 0x77])
      memory.grow(1)
      whole.mmioWrite(4 * PAGE - 4, 4, 0x1234_5678)
      expect(whole.mmioRead(4 * PAGE - 4, 4)).toBe(0x1234_5678)
      expect(fixed.mmioRead(4096, 4)).toBe(0xffff_ffff)
    }
  })

  it("of an invalid size is refused with the reason", () => {
    expect(() => new Machine({ ramSize: 3 * 2 ** 30 + 1 })).toThrow("RAM has 1 to 3221225472 bytes (3 GiB)")
    for (const ramSize of [0, -4096, 1.5, NaN, Infinity]) expect(() => new Machine({ ramSize })).toThrow(RangeError)
    expect(() => new Machine({})).toThrow("needs ramSize, memory or both")
    expect(() => new Machine({ ramSize: PAGE + 1, memory: new ArrayBuffer(PAGE) })).toThrow("more than the 65536 bytes of the memory given")
    expect(() => new Machine({ memory: new ArrayBuffer(0) })).toThrow(RangeError)
  })

  it("has stores of devices announced through `written`", () => {
    const stores: number[][] = []
    const vm = new Machine({ ramSize: PAGE, written: (address, length) => stores.push([address, length]) })
    vm.memory.written?.(0x1000, 16)
    expect(stores).toEqual([[0x1000, 16]])
  })

  it("takes precedence over a BAR that a guest places into it", () => {
    const vm = machine()
    const { slot, function: fn } = plug(vm)
    configWrite32(vm, slot, 0x14, 0x1000)
    vm.mmioWrite(0x1000, 4, 0x1234_5678)
    expect(vm.mmioRead(0x1000, 4)).toBe(0x1234_5678)
    expect(fn.accesses).toEqual([])
  })
})

describe("enumeration", () => {
  it("finds a host bridge in slot 0 of bus 0, by ports and by the ECAM, and nothing else in an empty machine", () => {
    const vm = machine()
    for (let device = 0; device < 32; device++) {
      const id = configRead32(vm, device, 0)
      expect(id).toBe(device === 0 ? 0x29c0_8086 : 0xffff_ffff)
      expect(vm.mmioRead(ECAM_WINDOW.start + device * 0x8000, 4)).toBe(id)
    }
    expect(configRead32(vm, 0, 0x08)).toBe(0x0600_0000)
    expect(configRead32(vm, 0, 0x0c) & 0x00ff_0000).toBe(0)
    expect(configRead32(vm, 0, 0x3c)).toBe(0)
    for (let register = 0x10; register < 0x28; register += 4) {
      configWrite32(vm, 0, register, 0xffff_ffff)
      expect(configRead32(vm, 0, register)).toBe(0)
    }
  })

  it("finds the place of the ECAM in the host bridge, which cannot be unplugged or replaced", () => {
    const vm = machine()
    configWrite32(vm, 0, 0x60, 0)
    expect(configRead32(vm, 0, 0x60)).toBe(ECAM_WINDOW.start + 1)
    expect(vm.unplug(0)).toBeUndefined()
    expect(() => plug(vm, 0)).toThrow("slot 0 is occupied")
    expect(configRead32(vm, 0, 0)).toBe(0x29c0_8086)
  })

  it("reads every register alike by ports, by the ECAM and from the function, at every width", () => {
    const vm = machine()
    const { slot, function: fn } = plug(vm)
    for (let register = 0; register < 256; register++) {
      select(vm, slot, register - (register % 4))
      for (const width of WIDTHS) {
        const ecam = vm.mmioRead(ECAM_WINDOW.start + slot * 0x8000 + register, width)
        expect(ecam).toBe(fn.configRead(register, width))
        if ((register % 4) + width <= 4) expect(vm.portRead(0xcfc + (register % 4), width)).toBe(ecam)
      }
    }
    expect(vm.mmioRead(ECAM_WINDOW.start + slot * 0x8000 + 0x100, 4)).toBe(0)
    expect(vm.mmioRead(ECAM_WINDOW.end - 4, 4)).toBe(0xffff_ffff)
  })

  it("reads all ones of the width where nothing answers, and drops writes there", () => {
    const vm = machine()
    for (const width of WIDTHS) {
      const ones = 2 ** (8 * width) - 1
      for (const port of [0, 0x60, 0xcf4, 0xd00, 0xc000, 0xffff, 0x1_0000]) {
        expect(vm.portRead(port, width)).toBe(ones)
        vm.portWrite(port, width, 0)
      }
      for (const address of [MAX_RAM_SIZE - 16, MMIO32_WINDOW.start, 0xfee0_0000, 0xffff_fffc, MMIO64_WINDOW.start]) {
        expect(vm.mmioRead(address, width)).toBe(ones)
        vm.mmioWrite(address, width, 0)
      }
    }
  })

  it("refuses an invalid width", () => {
    const vm = machine()
    for (const width of [0, 3, 8, NaN]) {
      const wrong = width as 1
      expect(() => vm.portRead(0, wrong)).toThrow(`access width ${width}`)
      expect(() => vm.portWrite(0, wrong, 0)).toThrow(RangeError)
      expect(() => vm.mmioRead(0, wrong)).toThrow(RangeError)
      expect(() => vm.mmioWrite(0, wrong, 0)).toThrow(RangeError)
    }
  })
})

describe("firmware", () => {
  it("gives a function aligned addresses in the windows, decoding without bus mastering, a line and a pin", () => {
    const vm = machine()
    const used: { start: number; end: number; io: boolean }[] = []
    for (let n = 0; n < 8; n++) {
      const { slot, function: fn, line } = plug(vm)
      expect(slot).toBe(n + 1)
      expect(configRead32(vm, slot, 0x04) & 0xffff).toBe(0x0003)
      expect(configRead32(vm, slot, 0x3c)).toBe(0x0100 + line)
      for (const { index, kind, size } of fn.bars) {
        const start = fn.barAddress(index) ?? NaN
        const window = kind === "io" ? IO_WINDOW : MMIO32_WINDOW
        expect(start % size).toBe(0)
        expect(start).toBeGreaterThanOrEqual(window.start)
        expect(start + size).toBeLessThanOrEqual(window.end)
        for (const other of used) if (other.io === (kind === "io")) expect(start >= other.end || start + size <= other.start).toBe(true)
        used.push({ start, end: start + size, io: kind === "io" })
      }
    }
  })

  it("spreads slots over the interrupt lines 10, 11, 5 and 9", () => {
    const vm = machine()
    expect([1, 2, 3, 4, 5, 31].map((slot) => plug(vm, slot).line)).toEqual([10, 11, 5, 9, 10, 5])
  })

  it("places a 64-bit BAR without room below 4 GiB above, where it works", () => {
    const vm = machine()
    const { slot, function: fn } = plug(vm, undefined, [{ index: 2, kind: "memory64", size: 2 ** 32 }])
    expect(fn.barAddress(2)).toBe(MMIO64_WINDOW.start)
    expect(configRead32(vm, slot, 0x1c)).toBe(0x80)
    vm.mmioWrite(MMIO64_WINDOW.start + 8, 4, 0xcafe_f00d)
    expect(vm.mmioRead(MMIO64_WINDOW.start + 8, 4)).toBe(0xcafe_f00d)
  })

  it("is not hindered by a BAR that a guest has unplaced, nor by one in the other space", () => {
    const vm = machine()
    const { slot } = plug(vm, undefined, [{ index: 0, kind: "memory64", size: 2 ** 33 }, { index: 2, kind: "memory32", size: 4096 }])
    configWrite32(vm, slot, 0x10, 0)
    configWrite32(vm, slot, 0x14, 0)
    configWrite32(vm, slot, 0x18, 0xc000)
    const next = plug(vm)
    expect(next.function.barAddress(0)).toBe(0xc000)
    expect(next.function.barAddress(1)).toBeLessThan(MMIO32_WINDOW.end)
  })

  it("takes a function without room off the bus", () => {
    const vm = machine()
    // Aligned to its size it would end at 4 GiB, or begin below the window.
    expect(() => plug(vm, 4, [{ index: 0, kind: "memory32", size: 2 ** 29 }])).toThrow("no room for BAR 0, 536870912 bytes of memory space")
    expect(configRead32(vm, 4, 0)).toBe(0xffff_ffff)
    expect(plug(vm, 4).slot).toBe(4)
    const half: readonly BarDefinition[] = [{ index: 0, kind: "io", size: 8192 }, { index: 1, kind: "memory32", size: 4096 }]
    expect(plug(vm, 5, half).function.barAddress(0)).toBe(0xe000)
    expect(() => plug(vm, 6, half)).toThrow("no room for BAR 0, 8192 bytes of I/O space")
    expect(configRead32(vm, 6, 0)).toBe(0xffff_ffff)
  })

  it("fills the bus with 31 functions, and refuses the next", () => {
    const vm = machine()
    for (let n = 1; n <= 31; n++) expect(plug(vm).slot).toBe(n)
    expect(() => plug(vm)).toThrow("all 32 slots of the PCI bus are occupied")
    vm.unplug(17)
    expect(plug(vm).slot).toBe(17)
  })
})

describe("the guest", () => {
  it("reaches a BAR by ports and by memory: all widths agree at every offset, and an access across the end is all ones", () => {
    const vm = machine()
    const { function: fn } = plug(vm)
    const io = fn.barAddress(0) ?? NaN
    const memory = fn.barAddress(1) ?? NaN
    for (let i = 0; i < 64; i++) vm.portWrite(io + i, 1, 0xff - i)
    for (let i = 0; i < 4096; i += 4) vm.mmioWrite(memory + i, 4, 0xf000_0000 + i * 0x101)
    for (const width of WIDTHS) {
      for (let i = 0; i + width <= 64; i++) expect(vm.portRead(io + i, width)).toBe(composed(io + i, width, (port) => vm.portRead(port, 1)))
      for (let i = 0; i + width <= 4096; i++) {
        if (vm.mmioRead(memory + i, width) !== composed(memory + i, width, (at) => vm.mmioRead(at, 1))) {
          expect.fail(`${width} bytes at ${i}`)
        }
      }
      if (width > 1) expect(vm.portRead(io + 65 - width, width)).toBe(2 ** (8 * width) - 1)
    }
  })

  it("may size and move every BAR, between RAM and 4 GiB or above, and switch decoding off", () => {
    const vm = machine()
    const { slot, function: fn } = plug(vm)
    const old = fn.barAddress(1) ?? NaN
    const before = configRead32(vm, slot, 0x14)
    configWrite32(vm, slot, 0x14, 0xffff_ffff)
    expect(configRead32(vm, slot, 0x14)).toBe(0xffff_f000)
    configWrite32(vm, slot, 0x14, before)
    vm.mmioWrite(old, 4, 0x1111_1111)
    configWrite32(vm, slot, 0x14, 0x8000_0000)
    configWrite32(vm, slot, 0x20, 0)
    configWrite32(vm, slot, 0x24, 0x12)
    expect(vm.mmioRead(old, 4)).toBe(0xffff_ffff)
    expect(vm.mmioRead(0x8000_0000, 4)).toBe(0x1111_1111)
    vm.mmioWrite(0x12_0000_0000, 2, 0x2222)
    expect(vm.mmioRead(0x12_0000_0000, 4)).toBe(0x2222)
    configWrite32(vm, slot, 0x04, 0)
    expect([vm.mmioRead(0x8000_0000, 4), vm.portRead(0xc000, 1)]).toEqual([0xffff_ffff, 0xff])
  })

  it("sees the pin on the line, shared with others, and controlled by Command bit 10", () => {
    const vm = machine()
    const first = plug(vm, 1)
    const second = plug(vm, 5)
    expect(second.line).toBe(first.line)
    first.function.setIntx(true)
    second.function.setIntx(true)
    configWrite32(vm, 1, 0x04, 0x0403)
    expect(vm.interrupts.level(10)).toBe(true)
    second.function.setIntx(false)
    expect(vm.interrupts.level(10)).toBe(false)
    configWrite32(vm, 1, 0x04, 0x0003)
    expect(vm.interrupts.level(10)).toBe(true)
  })

  it("PCI-32 gets MSI-X messages once it has programmed the table by MMIO and enabled the capability", () => {
    const vm = machine()
    const { slot, function: fn } = plug(vm)
    const table = (fn.barAddress(1) ?? NaN) + 0x800
    vm.mmioWrite(table + 16, 4, 0xfee0_1000)
    vm.mmioWrite(table + 24, 4, 0x4061)
    vm.mmioWrite(table + 28, 4, 0)
    configWrite32(vm, slot, 0x04, 0x0007)
    configWrite32(vm, slot, 0x40, 0x8000_0000)
    fn.msix?.trigger(1)
    fn.msix?.trigger(0)
    expect(vm.interrupts.takeMessages()).toEqual([{ address: 0xfee0_1000, data: 0x4061 }])
    expect(vm.mmioRead(table + 0x400, 4)).toBe(1)
  })
})

describe("hot-plug", () => {
  it("leaves nothing of an unplugged function: configuration, BARs, line, messages", () => {
    const vm = machine()
    const { slot, function: fn, line } = plug(vm)
    const memory = fn.barAddress(1) ?? NaN
    const io = fn.barAddress(0) ?? NaN
    fn.setIntx(true)
    expect(vm.unplug(slot)).toBe(fn)
    expect(vm.interrupts.level(line)).toBe(false)
    fn.setIntx(true)
    expect(vm.interrupts.raised).toEqual([])
    expect([
      configRead32(vm, slot, 0),
      vm.mmioRead(ECAM_WINDOW.start + slot * 0x8000, 4),
      vm.mmioRead(memory, 4),
      vm.portRead(io, 4),
    ]).toEqual(Array(4).fill(0xffff_ffff))
    expect(vm.unplug(slot)).toBeUndefined()
  })

  it("frees addresses for the next function, which avoids those that a guest has taken meanwhile", () => {
    const vm = machine()
    const first = plug(vm)
    const second = plug(vm)
    const freed = [0, 1, 4].map((index) => first.function.barAddress(index))
    vm.unplug(first.slot)
    const again = plug(vm)
    expect([0, 1, 4].map((index) => again.function.barAddress(index))).toEqual(freed)
    vm.unplug(again.slot)
    // The guest moves the other one to where the first was, its decoding off for the moment.
    configWrite32(vm, second.slot, 0x04, 0)
    configWrite32(vm, second.slot, 0x14, freed[1] ?? NaN)
    const third = plug(vm)
    expect(third.function.barAddress(1)).not.toBe(freed[1])
    configWrite32(vm, second.slot, 0x04, 2)
    vm.mmioWrite(freed[1] ?? NaN, 4, 1)
    expect(second.function.accesses).toEqual(["w1+0:4=1"])
    expect(third.function.accesses).toEqual([])
  })

  it("leaves the slot empty if making a function fails", () => {
    const vm = machine()
    expect(() =>
      vm.plug(3, () => {
        throw new Error("no such thing")
      }),
    ).toThrow("no such thing")
    expect(plug(vm, 3).slot).toBe(3)
    expect(() => plug(vm, 3)).toThrow("slot 3 is occupied")
    expect(() => plug(vm, 32)).toThrow("slots 0 to 31")
    expect(configRead32(vm, 3, 0)).toBe(0x1001_1af4)
    expect(configRead32(vm, 3, 0x04) & 0xffff).toBe(0x0003)
  })
})

describe("the reset line", () => {
  it("restores every function to its state after firmware, and keeps RAM", () => {
    const vm = machine()
    const plugged = [plug(vm), plug(vm)]
    const config = (): number[] => plugged.flatMap(({ slot }) => Array.from({ length: 64 }, (_, n) => configRead32(vm, slot, 4 * n)))
    const before = config()
    vm.ram[0] = 1
    configWrite32(vm, 1, 0x14, configRead32(vm, 2, 0x14))
    configWrite32(vm, 2, 0x10, 0)
    configWrite32(vm, 2, 0x3c, 0x55)
    configWrite32(vm, 1, 0x04, 0x0547)
    configWrite32(vm, 1, 0x40, 0xc000_0000)
    plugged[1]?.function.setIntx(true)
    vm.reset()
    expect(vm.portRead(0xcf8, 4)).toBe(0)
    expect(config()).toEqual(before)
    expect(vm.interrupts.raised).toEqual([])
    expect(vm.ram[0]).toBe(1)
  })
})
