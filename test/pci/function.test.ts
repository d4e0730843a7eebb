/** A function: command register, BARs, INTx, reset. */
import { describe, expect, it } from "vitest"
import type { PciInterrupts } from "../../src/pci/function.ts"
import { MSIX_PBA, MSIX_TABLE, msixFunction, OPTIONS, RecordedInterrupts, TestFunction, testFunction, WIDTHS } from "./test-function.ts"

const INTERRUPT_STATUS = 0x0008
const INTERRUPT_DISABLE = 0x0400

describe("INTx", () => {
  it("the pin follows the device, Status bit 3 shows it, and a level is reported once", () => {
    const interrupts = new RecordedInterrupts()
    const fn = testFunction({ interrupts })
    fn.setIntx(true)
    fn.setIntx(true)
    expect(fn.configRead(0x06, 2) & INTERRUPT_STATUS).toBe(INTERRUPT_STATUS)
    fn.setIntx(false)
    fn.setIntx(false)
    expect(fn.configRead(0x06, 2) & INTERRUPT_STATUS).toBe(0)
    expect(interrupts.levels).toEqual([true, false])
  })

  it("Command bit 10 keeps the pin low while Status bit 3 goes on showing the interrupt", () => {
    const interrupts = new RecordedInterrupts()
    const fn = testFunction({ interrupts })
    fn.setIntx(true)
    fn.configWrite(0x04, 2, INTERRUPT_DISABLE)
    expect(interrupts.level).toBe(false)
    expect(fn.configRead(0x06, 2) & INTERRUPT_STATUS).toBe(INTERRUPT_STATUS)
    fn.configWrite(0x05, 1, 0)
    expect(interrupts.levels).toEqual([true, false, true])
  })

  it("PCI-30 while MSI-X is enabled neither the pin nor Status bit 3 is set; both return when it is disabled", () => {
    const interrupts = new RecordedInterrupts()
    const fn = msixFunction(2, interrupts)
    fn.setIntx(true)
    fn.configWrite(0x42, 2, 0x8000)
    expect(interrupts.level).toBe(false)
    expect(fn.configRead(0x06, 2) & INTERRUPT_STATUS).toBe(0)
    fn.configWrite(0x42, 2, 0x0000)
    expect(interrupts.levels).toEqual([true, false, true])
    expect(fn.configRead(0x06, 2) & INTERRUPT_STATUS).toBe(INTERRUPT_STATUS)
  })

  it("software cannot write Status bit 3", () => {
    const fn = testFunction()
    fn.setIntx(true)
    fn.configWrite(0x06, 2, 0xffff)
    expect(fn.configRead(0x06, 2)).toBe(INTERRUPT_STATUS)
    fn.configWrite(0x06, 2, 0)
    expect(fn.configRead(0x06, 2)).toBe(INTERRUPT_STATUS)
  })

  it("a handler that quiets the device inside the call that raised the pin leaves it low", () => {
    const levels: boolean[] = []
    const interrupts: PciInterrupts = {
      intx: (level) => {
        levels.push(level)
        if (level) fn.setIntx(false)
      },
      message: () => {},
    }
    const fn: TestFunction = testFunction({ interrupts })
    fn.setIntx(true)
    expect(levels).toEqual([true, false])
    expect(fn.configRead(0x06, 2)).toBe(0)
    fn.setIntx(true)
    expect(levels).toEqual([true, false, true, false])
  })
})

describe("hooks", () => {
  it("the device hears of a changed Command register after the write, with old and new value, and not of equal writes", () => {
    const fn = testFunction()
    fn.configWrite(0x04, 2, 0x0007)
    fn.configWrite(0x04, 2, 0x0007)
    fn.configWrite(0x04, 1, 0x03)
    fn.configWrite(0x05, 1, 0x04)
    expect(fn.events).toEqual(["command 0>7 register 7", "command 7>3 register 3", "command 3>1027 register 1027"])
  })

  it("the device hears of MSI-X enable and function mask after they took effect", () => {
    const fn = msixFunction(2)
    fn.configWrite(0x42, 2, 0x8000)
    fn.configWrite(0x43, 1, 0xc0)
    fn.configWrite(0x43, 1, 0xc0)
    fn.configWrite(0x40, 4, 0)
    expect(fn.events).toEqual(["msix enabled true masked false", "msix enabled true masked true", "msix enabled false masked false"])
  })

  it("PCI-36 a device may switch bus mastering on for its driver; the register and the hook show it", () => {
    const fn = testFunction()
    fn.configWrite(0x04, 2, 0x0003)
    fn.setBusMaster(true)
    fn.setBusMaster(true)
    expect(fn.busMaster).toBe(true)
    expect(fn.configRead(0x04, 2)).toBe(0x0007)
    fn.setBusMaster(false)
    expect([fn.busMaster, fn.command]).toEqual([false, 3])
    expect(fn.events.slice(1)).toEqual(["command 3>7 register 7", "command 7>3 register 3"])
  })

  it("PCI-36 a hook that sets bus mastering again while the driver clears it wins, without a loop", () => {
    class Stubborn extends TestFunction {
      protected override commandChanged(command: number, previous: number): void {
        super.commandChanged(command, previous)
        this.setBusMaster(true)
      }
    }
    const fn = new Stubborn(OPTIONS)
    fn.configWrite(0x04, 2, 0x0001)
    expect(fn.busMaster).toBe(true)
    expect(fn.configRead(0x04, 2)).toBe(0x0005)
    expect(fn.events).toEqual(["command 0>1 register 1", "command 1>5 register 5"])
  })
})

describe("BAR accesses", () => {
  it("PCI-37 an access outside a BAR, or to a missing one, reads all ones and writes nothing", () => {
    const fn = testFunction()
    for (const width of WIDTHS) {
      const ones = 2 ** (8 * width) - 1
      for (const [index, offset] of [
        [2, 0],
        [5, 0],
        [6, 0],
        [-1, 0],
        [0, 64],
        [0, 65 - width],
        [1, 4097 - width],
        [1, 0xffff_fffc],
        [1, -1],
        [1, 2 ** 53],
        [1, NaN],
      ] as const) {
        expect(fn.barRead(index, offset, width), `BAR ${index} offset ${offset} width ${width}`).toBe(ones)
        fn.barWrite(index, offset, width, 0)
      }
    }
    expect(fn.accesses).toEqual([])
  })

  it("values to and from the device are unsigned and truncated to the width of the access", () => {
    const fn = testFunction()
    fn.barWrite(1, 0, 1, 0x1ff)
    fn.barWrite(1, 0, 2, -1)
    fn.barWrite(1, 0, 4, -1)
    expect(fn.accesses).toEqual(["w1+0:1=255", "w1+0:2=65535", "w1+0:4=4294967295"])
    class Careless extends TestFunction {
      protected override readBar(): number {
        return -2
      }
    }
    for (const device of [
      new Careless(OPTIONS),
      new Careless({ ...OPTIONS, msix: { bar: 1, vectors: 1, tableOffset: 64, pbaOffset: 128 } }),
    ]) {
      expect([device.barRead(1, 0, 1), device.barRead(1, 0, 2), device.barRead(1, 0, 4)]).toEqual([0xfe, 0xfffe, 0xffff_fffe])
    }
  })
})

describe("reset", () => {
  it("restores the state after power-on: registers, decoding, MSI-X table and pending bits, and a low pin", () => {
    const interrupts = new RecordedInterrupts()
    const fresh = msixFunction(2)
    fresh.configWrite(0x04, 2, 0)
    const fn = msixFunction(2, interrupts)
    let mappings = 0
    fn.onMappingChange = () => mappings++
    fn.configWrite(0x14, 4, 0xe000_0000)
    fn.configWrite(0x3c, 1, 11)
    fn.configWrite(0x42, 2, 0xc000)
    fn.barWrite(1, MSIX_TABLE, 4, 0xfee0_0000)
    fn.msix?.trigger(1)
    fn.configWrite(0x42, 2, 0x0000)
    fn.setIntx(true)
    fn.events.length = 0
    fn.reset()
    for (let offset = 0; offset < 256; offset++) expect(fn.configRead(offset, 1), `byte ${offset}`).toBe(fresh.configRead(offset, 1))
    for (const offset of [MSIX_TABLE, MSIX_TABLE + 12, MSIX_PBA]) expect(fn.barRead(1, offset, 4)).toBe(fresh.barRead(1, offset, 4))
    expect(interrupts.levels).toEqual([true, false])
    expect(interrupts.messages).toEqual([])
    expect(fn.barAddress(1)).toBeUndefined()
    expect(mappings).toBe(2)
    expect(fn.events).toEqual(["command 6>0 register 0"])
  })
})
