/** The bus: slots, decoding of BARs, ECAM. */
import { beforeEach, describe, expect, it } from "vitest"
import { PciBus } from "../../src/pci/bus.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { composed, msixFunction, RecordedInterrupts, TestFunction, testFunction, WIDTHS } from "./test-function.ts"

const SEED = seedFromEnvironment(0xb05)

let bus: PciBus
beforeEach(() => {
  bus = new PciBus()
})

describe("configuration accesses", () => {
  it("reach the function in the slot, and read all ones of the width where there is none: empty slot, other bus, function 1 to 7", () => {
    bus.plug(3, testFunction({ deviceId: 0x1042 }))
    expect(bus.configRead(0, 3, 0, 0, 4)).toBe(0x1042_1af4)
    for (const [busNumber, device, fn] of [[0, 4, 0], [1, 3, 0], [255, 3, 0], [0, 3, 1], [0, 3, 7], [0, 31, 0]] as const) {
      expect(WIDTHS.map((width) => bus.configRead(busNumber, device, fn, 0, width))).toEqual([0xff, 0xffff, 0xffff_ffff])
      bus.configWrite(busNumber, device, fn, 0x04, 2, 0x0007)
    }
    expect(bus.configRead(0, 3, 0, 0x04, 2)).toBe(0)
  })

  it("the ECAM gives every function 4096 bytes: registers 0 to 255, then zeroes, and agrees with configuration accesses at every width",
  () => {
    bus.plug(1, testFunction())
    bus.plug(31, msixFunction(4))
    for (const device of [1, 31]) {
      const base = device * 0x8000
      for (let offset = 0; offset < 4096; offset++) {
        for (const width of WIDTHS) {
          if (offset + width > 4096) continue
          const value = bus.ecamRead(base + offset, width)
          if (value !== bus.configRead(0, device, 0, offset, width)) {
            expect.fail(`device ${device}: ${width} bytes at ${offset} read ${value}`)
          }
          if (value !== composed(base + offset, width, (at) => bus.ecamRead(at, 1))) {
            expect.fail(`device ${device}: the bytes of ${width} at ${offset} differ`)
          }
        }
      }
    }
  })

  it("the ECAM shows all ones for absent functions and other buses up to its last byte, and writes there do nothing", () => {
    bus.plug(0, testFunction())
    for (const offset of [0x1000, 0x7000, 0x8000, 0x10_0000, 0xfff_f000, 0xfff_fffc]) {
      expect(bus.ecamRead(offset, 4)).toBe(0xffff_ffff)
      bus.ecamWrite(offset + 4, 1, 7)
    }
    expect(bus.ecamRead(0x04, 4)).toBe(0)
    bus.ecamWrite(0x04, 2, 0x0003)
    expect(bus.configRead(0, 0, 0, 0x04, 2)).toBe(0x0003)
  })

  it("an ECAM access that reaches into the next function reads all ones and changes neither", () => {
    bus.plug(0, testFunction())
    expect(bus.ecamRead(0xffe, 4)).toBe(0xffff_ffff)
    expect(bus.ecamRead(0xffe, 2)).toBe(0)
    bus.ecamWrite(0xfff, 2, 0)
  })
})

describe("slots", () => {
  it("hold up to 8 functions each, whose headers say so ([PCI] 6.2.1) while there is more than one", () => {
    const types = (): (number | undefined)[] => [0, 1, 6, 7].map((number) => bus.function(3, number)?.configRead(0x0e, 1))
    bus.plug(3, testFunction({ deviceId: 0x1000 }))
    expect(types()).toEqual([0, undefined, undefined, undefined])
    for (const number of [7, 1]) bus.plug(3, testFunction({ deviceId: 0x1000 + number }), number)
    bus.plug(4, testFunction())
    expect([types(), bus.function(4)?.configRead(0x0e, 1)]).toEqual([[0x80, 0x80, undefined, 0x80], 0])
    expect(bus.functions(3).map(([number]) => number)).toEqual([0, 1, 7])
    expect([0, 1, 2, 7].map((number) => bus.configRead(0, 3, number, 2, 2))).toEqual([0x1000, 0x1001, 0xffff, 0x1007])
    expect(bus.ecamRead(3 * 0x8000 + 7 * 0x1000, 4)).toBe(0x1007_1af4)
    bus.function(3, 7)?.reset()
    bus.configWrite(0, 3, 7, 0x0e, 1, 0)
    expect(types()).toEqual([0x80, 0x80, undefined, 0x80])
    const last = bus.unplug(3, 7)
    expect([types(), last?.configRead(0x0e, 1)]).toEqual([[0x80, 0x80, undefined, undefined], 0])
    bus.unplug(3, 1)
    expect(types()).toEqual([0, undefined, undefined, undefined])
    for (const number of [8, -1, 0.5]) {
      expect(() => bus.plug(3, testFunction(), number)).toThrow(`function ${number}: a PCI device has functions 0 to 7`)
    }
    bus.plug(3, testFunction(), 1)
    expect(() => bus.plug(3, testFunction(), 1)).toThrow("function 1 of slot 3 is occupied")
  })

  it("number 32, and a function is in one slot at a time", () => {
    const fn = testFunction()
    bus.plug(31, fn)
    expect(bus.function(31)).toBe(fn)
    expect(() => bus.plug(31, testFunction())).toThrow("slot 31 is occupied")
    expect(() => bus.plug(5, fn)).toThrow("plugged in already")
    for (const slot of [32, -1, 1.5]) expect(() => bus.plug(slot, testFunction())).toThrow(`slot ${slot}: a PCI bus has slots 0 to 31`)
    expect(bus.unplug(30)).toBeUndefined()
  })

  it("show nothing of an unplugged function, whose pin is low and which may be plugged in elsewhere", () => {
    const interrupts = new RecordedInterrupts()
    const fn = testFunction({ interrupts })
    bus.plug(2, fn)
    bus.configWrite(0, 2, 0, 0x10, 4, 0xc000)
    bus.configWrite(0, 2, 0, 0x14, 4, 0xe000_0000)
    bus.configWrite(0, 2, 0, 0x04, 2, 0x0007)
    fn.setIntx(true)
    bus.ioWrite(0xc000, 1, 1)
    fn.accesses.length = 0

    expect(bus.unplug(2)).toBe(fn)
    expect(interrupts.levels).toEqual([true, false])
    expect(fn.busMaster).toBe(false)
    expect(bus.function(2)).toBeUndefined()
    expect(bus.configRead(0, 2, 0, 0, 4)).toBe(0xffff_ffff)
    expect(bus.ioRead(0xc000, 1)).toBe(0xff)
    expect(bus.memoryRead(0xe000_0000, 4)).toBe(0xffff_ffff)
    bus.memoryWrite(0xe000_0000, 4, 1)
    expect(fn.accesses).toEqual([])

    // Whoever still holds the function cannot bring it back onto the bus by its registers.
    fn.configWrite(0x14, 4, 0xe000_0000)
    fn.configWrite(0x04, 2, 0x0002)
    expect(bus.memoryRead(0xe000_0000, 4)).toBe(0xffff_ffff)
    bus.plug(9, fn)
    expect(bus.memoryRead(0xe000_0000, 4)).toBe(0)
  })

  it("serve at once a function that is plugged in while it decodes", () => {
    const fn = testFunction()
    fn.configWrite(0x14, 4, 0xe000_0000)
    fn.configWrite(0x04, 2, 0x0002)
    bus.plug(7, fn)
    bus.memoryWrite(0xe000_0010, 4, 0x1234_5678)
    expect(bus.memoryRead(0xe000_0010, 4)).toBe(0x1234_5678)
  })
})

describe("I/O and memory decoding", () => {
  it("an access reaches its BAR with the offset in it, in the space of its kind only", () => {
    const fn = testFunction()
    bus.plug(4, fn)
    bus.configWrite(0, 4, 0, 0x10, 4, 0xc000)
    bus.configWrite(0, 4, 0, 0x14, 4, 0xd000)
    bus.configWrite(0, 4, 0, 0x20, 4, 0x8000_0000)
    bus.configWrite(0, 4, 0, 0x24, 4, 0x0000_0080)
    bus.configWrite(0, 4, 0, 0x04, 2, 0x0003)
    bus.ioWrite(0xc012, 1, 0xaa)
    bus.memoryWrite(0xd004, 2, 0xbbbb)
    bus.memoryWrite(0x80_8000_3ffc, 4, 0xcccc_cccc)
    expect(bus.memoryRead(0xc012, 1)).toBe(0xff)
    expect(bus.ioRead(0xd004, 2)).toBe(0xffff)
    expect(bus.memoryRead(0x8000_3ffc, 4)).toBe(0xffff_ffff)
    expect([bus.ioRead(0xc012, 1), bus.memoryRead(0xd004, 2), bus.memoryRead(0x80_8000_3ffc, 4)]).toEqual([0xaa, 0xbbbb, 0xcccc_cccc])
    expect(fn.accesses).toEqual(["w0+18:1=170", "w1+4:2=48059", "w4+16380:4=3435973836", "r0+18:1", "r1+4:2", "r4+16380:4"])
  })

  it("PCI-37 an access across the end of a BAR, even into the next one, reads all ones and is dropped", () => {
    const low = testFunction()
    const high = testFunction()
    for (const [slot, fn, address] of [[1, low, 0xe000_0000], [2, high, 0xe000_1000]] as const) {
      bus.plug(slot, fn)
      bus.configWrite(0, slot, 0, 0x14, 4, address)
      bus.configWrite(0, slot, 0, 0x04, 2, 0x0002)
    }
    for (const [address, width] of [[0xe000_0ffd, 4], [0xe000_0fff, 2], [0xdfff_ffff, 2], [0xe000_1fff, 4]] as const) {
      expect(bus.memoryRead(address, width)).toBe(2 ** (8 * width) - 1)
      bus.memoryWrite(address, width, 0)
    }
    expect([...low.accesses, ...high.accesses]).toEqual([])
    bus.memoryRead(0xe000_0ffe, 2)
    bus.memoryRead(0xe000_1000, 4)
    expect([...low.accesses, ...high.accesses]).toEqual(["r1+4094:2", "r1+0:4"])
  })

  it("where BARs overlap the lowest slot answers, whichever was placed first, and without it the other", () => {
    const first = testFunction()
    const second = testFunction()
    bus.plug(6, second)
    bus.plug(5, first)
    for (const slot of [6, 5]) {
      bus.configWrite(0, slot, 0, 0x14, 4, 0xe000_0000)
      bus.configWrite(0, slot, 0, 0x04, 2, 0x0002)
    }
    bus.memoryRead(0xe000_0000, 4)
    expect([first.accesses, second.accesses]).toEqual([["r1+0:4"], []])
    bus.configWrite(0, 5, 0, 0x04, 2, 0)
    bus.memoryRead(0xe000_0000, 4)
    expect([first.accesses, second.accesses]).toEqual([["r1+0:4"], ["r1+0:4"]])
    // An access that only the other one holds whole is the other one's.
    bus.configWrite(0, 6, 0, 0x20, 4, 0xdfff_c000)
    bus.configWrite(0, 5, 0, 0x04, 2, 2)
    bus.configWrite(0, 5, 0, 0x14, 4, 0xdfff_e000)
    bus.memoryRead(0xdfff_effe, 4)
    expect([first.accesses, second.accesses]).toEqual([["r1+0:4"], ["r1+0:4", "r4+12286:4"]])
  })

  it("a BAR that is written while decoding is on answers at its new place and no longer at the old one", () => {
    const fn = testFunction()
    bus.plug(1, fn)
    bus.configWrite(0, 1, 0, 0x04, 2, 0x0001)
    bus.configWrite(0, 1, 0, 0x10, 4, 0xc000)
    bus.ioWrite(0xc000, 4, 0x1111_1111)
    bus.configWrite(0, 1, 0, 0x11, 1, 0xd0)
    expect(bus.ioRead(0xc000, 4)).toBe(0xffff_ffff)
    expect(bus.ioRead(0xd000, 4)).toBe(0x1111_1111)
    bus.configWrite(0, 1, 0, 0x10, 4, 0xffff_ffff)
    expect(bus.ioRead(0xffc0, 4)).toBe(0xffff_ffff)
    bus.configWrite(0, 1, 0, 0x10, 4, 0xc000)
    expect(bus.ioRead(0xc000, 4)).toBe(0x1111_1111)
  })

  it("after random moves, decode switches, plugs and unplugs every access decodes as a scan over all registers says", () => {
    const rng = new Rng(SEED)
    const slots = [1, 2, 3, 8, 31]
    const spots = [0, 0xe000_0000, 0xe000_0800, 0xe000_1000, 0xe000_2000, 0xe000_4000, 0xffff_f000]
    for (let step = 0; step < 3000; step++) {
      const slot = rng.pick(slots)
      const fn = bus.function(slot)
      if (fn === undefined) bus.plug(slot, testFunction())
      else if (rng.chance(0.05)) bus.unplug(slot)
      else if (rng.chance(0.3)) bus.configWrite(0, slot, 0, 0x04, 2, rng.below(4))
      else if (rng.chance(0.2)) bus.configWrite(0, slot, 0, 0x24, 4, rng.pick([0, 0, 1]))
      else bus.configWrite(0, slot, 0, rng.pick([0x14, 0x20]), 4, rng.pick(spots))

      const address = rng.pick([0xe000_0000, 0x1_e000_0000, 0xffff_e000]) + 4 * rng.below(0x2000)
      let expected = "nobody"
      search: for (const s of slots) {
        const config = (offset: number): number => bus.configRead(0, s, 0, offset, 4)
        if (bus.function(s) === undefined || (config(0x04) & 2) === 0) continue
        for (const [index, size, start] of [[1, 4096, config(0x14)], [4, 16384, config(0x24) * 2 ** 32 + (config(0x20) - 0xc)]] as const) {
          if (start === 0 || (index === 1 && start + size === 2 ** 32) || address < start || address + 4 > start + size) continue
          expected = `${s}: r${index}+${address - start}:4`
          break search
        }
      }
      for (const s of slots) accessesOf(s).length = 0
      bus.memoryRead(address, 4)
      const actual = slots.flatMap((s) => accessesOf(s).map((access) => `${s}: ${access}`)).join() || "nobody"
      if (actual !== expected) expect.fail(`seed ${SEED} step ${step}: ${address.toString(16)} reached ${actual}, not ${expected}`)
    }
  })

  function accessesOf(slot: number): string[] {
    const fn = bus.function(slot)
    return fn instanceof TestFunction ? fn.accesses : []
  }
})
