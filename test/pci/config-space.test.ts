/** Configuration space as storage: what software can change, and what not. */
import { describe, expect, it } from "vitest"
import { ConfigSpace } from "../../src/pci/config-space.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { composed, msixFunction, testFunction, WIDTHS } from "./test-function.ts"

const SEED = seedFromEnvironment(0x50c1)

/**
 * What software may change of a type 0 header with BARs of 64 bytes I/O, 4 KiB memory and 16 KiB 64-bit memory, [PCI] chapter 6, by offset
 * of the dword.
 */
const HEADER_WRITABLE: Readonly<Record<number, number>> = {
  0x04: 0x0000_0547, // Command: I/O, memory, master, parity response, SERR, interrupt disable
  0x0c: 0x0000_ffff, // cache line size, latency timer
  0x10: 0xffff_ffc0,
  0x14: 0xffff_f000,
  0x20: 0xffff_c000,
  0x24: 0xffff_ffff,
  0x3c: 0x0000_00ff, // interrupt line
}

describe("the type 0 header", () => {
  it("PCI-04 shows the identification, the class code, the subsystem and interrupt pin 1 at their offsets", () => {
    const fn = testFunction()
    expect(fn.configRead(0x00, 2)).toBe(0x1af4)
    expect(fn.configRead(0x02, 2)).toBe(0x1001)
    expect(fn.configRead(0x08, 1)).toBe(0xa5)
    expect([fn.configRead(0x0b, 1), fn.configRead(0x0a, 1), fn.configRead(0x09, 1)]).toEqual([0x01, 0x02, 0x03])
    expect(fn.configRead(0x2c, 2)).toBe(0x1af4)
    expect(fn.configRead(0x2e, 2)).toBe(0x0002)
    expect(fn.configRead(0x3d, 1)).toBe(1)
    expect(fn.configRead(0x0e, 1)).toBe(0x00)
  })

  it("starts with decoding, bus mastering and interrupt disable off, and BARs of address 0 that show their kind", () => {
    const fn = testFunction()
    expect(fn.configRead(0x04, 2)).toBe(0)
    expect(fn.busMaster).toBe(false)
    expect([0x10, 0x14, 0x18, 0x1c, 0x20, 0x24].map((offset) => fn.configRead(offset, 4))).toEqual([0x1, 0x0, 0x0, 0x0, 0xc, 0x0])
  })

  it("all ones written to every dword change exactly the bits that PCI lets software change", () => {
    const fn = testFunction()
    for (let offset = 0; offset < 256; offset += 4) {
      const before = fn.configRead(offset, 4)
      fn.configWrite(offset, 4, 0xffff_ffff)
      const after = fn.configRead(offset, 4)
      expect((before ^ after) >>> 0, `dword at 0x${offset.toString(16)}`).toBe(HEADER_WRITABLE[offset] ?? 0)
    }
  })

  it("the expansion ROM register reads 0 whatever is written, so software finds no ROM", () => {
    const fn = testFunction()
    fn.configWrite(0x30, 4, 0xffff_f801)
    expect(fn.configRead(0x30, 4)).toBe(0)
  })

  it("PCI-11 random writes of every width and offset match a model of byte masks, and nothing but writable bits ever changes", () => {
    const rng = new Rng(SEED)
    const fn = msixFunction(4)
    const initial = Uint8Array.from({ length: 256 }, (_, at) => fn.configRead(at, 1))
    const writable = new Uint8Array(256)
    for (const [offset, mask] of Object.entries({ ...HEADER_WRITABLE, 0x40: 0xc000_0000 })) {
      for (let i = 0; i < 4; i++) writable[Number(offset) + i] = mask >>> (8 * i)
    }
    const model = initial.slice()
    for (let step = 0; step < 20_000; step++) {
      const width = rng.pick(WIDTHS)
      const offset = rng.below(260)
      const value = rng.u32()
      fn.configWrite(offset, width, value)
      for (let i = 0; i < width; i++) {
        const mask = writable[offset + i] ?? 0
        if (offset + i < 256) model[offset + i] = ((model[offset + i] ?? 0) & ~mask) | ((value >>> (8 * i)) & mask)
      }
      const probe = rng.below(256)
      if (fn.configRead(probe, 1) !== model[probe]) {
        expect.fail(`seed ${SEED} step ${step}: byte ${probe} reads ${fn.configRead(probe, 1)}, not ${model[probe]}`)
      }
    }
    expect(Uint8Array.from({ length: 256 }, (_, at) => fn.configRead(at, 1))).toEqual(model)
  })

  it("reads of 1, 2 and 4 bytes agree at every offset, are unsigned, and give 0 from byte 256 to 4095", () => {
    const fn = msixFunction(4)
    const rng = new Rng(SEED)
    for (let i = 0; i < 200; i++) fn.configWrite(rng.below(256), rng.pick(WIDTHS), rng.u32())
    fn.configWrite(0x24, 4, 0xffff_ffff)
    expect(fn.configRead(0x24, 4)).toBe(4294967295)
    for (let offset = 0; offset < 4096; offset++) {
      for (const width of WIDTHS) {
        const value = fn.configRead(offset, width)
        if (value !== composed(offset, width, (at) => fn.configRead(at, 1))) expect.fail(`${width} bytes at ${offset} read ${value}`)
        if (offset >= 256 && value !== 0) expect.fail(`${width} bytes at ${offset} read ${value} where there is nothing`)
      }
    }
  })

  it("writes of 1, 2 and 4 bytes to the same range have the same effect", () => {
    const rng = new Rng(SEED)
    for (let round = 0; round < 200; round++) {
      const whole = testFunction()
      const halves = testFunction()
      const bytes = testFunction()
      const offset = 4 * rng.below(64)
      const value = rng.u32()
      whole.configWrite(offset, 4, value)
      for (const i of [0, 2]) halves.configWrite(offset + i, 2, value >>> (8 * i))
      for (const i of [3, 0, 2, 1]) bytes.configWrite(offset + i, 1, value >>> (8 * i))
      expect(halves.configRead(offset, 4)).toBe(whole.configRead(offset, 4))
      expect(bytes.configRead(offset, 4)).toBe(whole.configRead(offset, 4))
    }
  })

  it("a write to the Command register does not change the Status register beside it, nor the other way round", () => {
    const fn = msixFunction(1)
    fn.configWrite(0x04, 2, 0x0407)
    expect(fn.configRead(0x06, 2)).toBe(0x0010)
    fn.configWrite(0x06, 2, 0xffff)
    expect(fn.configRead(0x04, 4)).toBe(0x0010_0407)
  })
})

describe("ConfigSpace", () => {
  it("the error bits of the Status register are cleared by writing 1 and kept by writing 0, whatever the width", () => {
    const space = new ConfigSpace()
    space.define(0x06, 2, 0xf910, { clearedByOne: 0xf900 })
    space.write(0x06, 2, 0x8000)
    expect(space.read(0x06, 2)).toBe(0x7910)
    space.write(0x07, 1, 0x70)
    expect(space.read(0x06, 2)).toBe(0x0910)
    space.write(0x04, 4, 0x0000_0000)
    expect(space.read(0x06, 2)).toBe(0x0910)
    space.write(0x04, 4, 0xffff_ffff)
    expect(space.read(0x06, 2)).toBe(0x0010)
  })

  it("reset gives software's bits their first value back and keeps those that belong to the device", () => {
    const space = new ConfigSpace()
    space.define(0x40, 2, 0x1234, { writable: 0x00ff })
    space.write(0x40, 2, 0xffff)
    space.store(0x41, 1, 0x77)
    space.reset()
    expect(space.read(0x40, 2)).toBe(0x7734)
  })
})
