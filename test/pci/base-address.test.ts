/** Base address registers: sizing, placing, decoding. */
import { describe, expect, it } from "vitest"
import type { BarDefinition } from "../../src/pci/function.ts"
import { DEFAULT_BARS, testFunction } from "./test-function.ts"

const bar = (index: number): number => 0x10 + 4 * index

describe("base address registers", () => {
  it("sizing: after all ones a BAR reads as the complement of its size with its kind in the low bits", () => {
    const fn = testFunction()
    for (const index of [0, 1, 4, 5]) fn.configWrite(bar(index), 4, 0xffff_ffff)
    expect([0, 1, 4, 5].map((index) => fn.configRead(bar(index), 4))).toEqual([0xffff_ffc1, 0xffff_f000, 0xffff_c00c, 0xffff_ffff])
    for (const index of [2, 3]) {
      fn.configWrite(bar(index), 4, 0xffff_ffff)
      expect(fn.configRead(bar(index), 4)).toBe(0)
    }
  })

  it.each([
    [{ index: 0, kind: "io", size: 4 }, 0xffff_fffd, undefined],
    [{ index: 0, kind: "memory32", size: 16 }, 0xffff_fff0, undefined],
    [{ index: 0, kind: "memory32", size: 2 ** 30, prefetchable: true }, 0xc000_0008, undefined],
    [{ index: 2, kind: "memory64", size: 2 ** 31 }, 0x8000_0004, 0xffff_ffff],
    [{ index: 2, kind: "memory64", size: 2 ** 32 }, 0x0000_0004, 0xffff_ffff],
    [{ index: 4, kind: "memory64", size: 2 ** 40, prefetchable: true }, 0x0000_000c, 0xffff_ff00],
  ] as const)("sizing works for %o", (definition, low, high) => {
    const fn = testFunction({ bars: [definition] })
    fn.configWrite(bar(definition.index), 4, 0xffff_ffff)
    expect(fn.configRead(bar(definition.index), 4)).toBe(low)
    if (high === undefined) return
    fn.configWrite(bar(definition.index + 1), 4, 0xffff_ffff)
    expect(fn.configRead(bar(definition.index + 1), 4)).toBe(high)
  })

  it("an address is decoded only while its bit of the Command register is on: bit 0 for I/O, bit 1 for memory", () => {
    const fn = testFunction()
    fn.configWrite(bar(0), 4, 0xc041)
    fn.configWrite(bar(1), 4, 0xfebf_0000)
    fn.configWrite(bar(4), 4, 0xe000_0000)
    const addresses = (): (number | undefined)[] => [0, 1, 4].map((index) => fn.barAddress(index))
    expect(addresses()).toEqual([undefined, undefined, undefined])
    fn.configWrite(0x04, 2, 0x0001)
    expect(addresses()).toEqual([0xc040, undefined, undefined])
    fn.configWrite(0x04, 2, 0x0002)
    expect(addresses()).toEqual([undefined, 0xfebf_0000, 0xe000_0000])
    fn.configWrite(0x04, 1, 0x07)
    expect(addresses()).toEqual([0xc040, 0xfebf_0000, 0xe000_0000])
    expect([2, 3, 5, 6, -1].map((index) => fn.barAddress(index))).toEqual([undefined, undefined, undefined, undefined, undefined])
  })

  it("the upper register of a 64-bit BAR counts in units of 4 GiB", () => {
    const fn = testFunction()
    fn.configWrite(0x04, 2, 0x0002)
    fn.configWrite(bar(4), 4, 0x8000_4000)
    fn.configWrite(bar(5), 4, 0x0000_0080)
    expect(fn.barAddress(4)).toBe(0x80_8000_4000)
    fn.configWrite(bar(5), 4, 0x000f_ffff)
    expect(fn.barAddress(4)).toBe(0x000f_ffff_8000_4000)
  })

  it("a BAR that is not placed, or is being sized while decoding is on, is not decoded", () => {
    const fn = testFunction()
    fn.configWrite(0x04, 2, 0x0003)
    expect([0, 1, 4].map((index) => fn.barAddress(index))).toEqual([undefined, undefined, undefined])
    for (const index of [0, 1, 4, 5]) fn.configWrite(bar(index), 4, 0xffff_ffff)
    expect([0, 1, 4].map((index) => fn.barAddress(index))).toEqual([undefined, undefined, undefined])
  })

  it("an I/O BAR is decoded inside of the 64 KiB of I/O space only", () => {
    const fn = testFunction()
    fn.configWrite(0x04, 2, 0x0001)
    fn.configWrite(bar(0), 4, 0x0001_0001)
    expect(fn.barAddress(0)).toBeUndefined()
    expect(fn.configRead(bar(0), 4)).toBe(0x0001_0001)
    fn.configWrite(bar(0), 4, 0xffc1)
    expect(fn.barAddress(0)).toBe(0xffc0)
  })

  it("the smallest BARs are decoded at every multiple of their size", () => {
    const fn = testFunction({ bars: [{ index: 0, kind: "io", size: 4 }, { index: 1, kind: "memory32", size: 16 }] })
    fn.configWrite(0x04, 2, 0x0003)
    fn.configWrite(bar(0), 4, 0xc005)
    fn.configWrite(bar(1), 4, 0xe000_0010)
    expect([0, 1].map((index) => fn.barAddress(index))).toEqual([0xc004, 0xe000_0010])
  })

  it("a write while decoding is on moves the BAR, and the bus is notified of each change once", () => {
    const fn = testFunction()
    const heard: (number | undefined)[] = []
    fn.onMappingChange = () => heard.push(fn.barAddress(1))
    fn.configWrite(bar(1), 4, 0xe000_0000)
    expect(heard).toEqual([])
    fn.configWrite(0x04, 2, 0x0002)
    fn.configWrite(bar(1), 4, 0xe000_1000)
    fn.configWrite(bar(1) + 2, 1, 0x12)
    fn.configWrite(bar(1), 1, 0xff)
    fn.configWrite(0x04, 2, 0x0006)
    fn.configWrite(0x3c, 1, 11)
    fn.configWrite(0x04, 2, 0x0000)
    expect(heard).toEqual([0xe000_0000, 0xe000_1000, 0xe012_1000, undefined])
  })

  it("invalid BARs are refused with the reason", () => {
    const refused = (bars: readonly BarDefinition[]): (() => unknown) => () => testFunction({ bars })
    expect(refused([{ index: 6, kind: "io", size: 16 }])).toThrow("index from 0 to 5")
    expect(refused([{ index: 5, kind: "memory64", size: 4096 }])).toThrow("index from 0 to 4")
    expect(refused([{ index: 0, kind: "io", size: 48 }])).toThrow("power of two")
    expect(refused([{ index: 0, kind: "io", size: 2 }])).toThrow("a power of two from 4 to 32768")
    expect(refused([{ index: 0, kind: "memory32", size: 8 }])).toThrow("a power of two from 16 to 1073741824")
    expect(refused([{ index: 0, kind: "memory32", size: 2 ** 31 }])).toThrow("a power of two from 16 to 1073741824")
    expect(refused([{ index: 0, kind: "io", size: 16, prefetchable: true }])).toThrow("prefetchable")
    expect(refused([...DEFAULT_BARS, { index: 5, kind: "io", size: 16 }])).toThrow("belongs to another BAR")
    expect(refused([{ index: 1, kind: "io", size: 16 }, { index: 1, kind: "io", size: 16 }])).toThrow("belongs to another BAR")
  })
})
