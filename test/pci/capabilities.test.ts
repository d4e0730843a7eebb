/** The linked list of capabilities. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { msixFunction, type TestFunction, testFunction } from "./test-function.ts"

const SEED = seedFromEnvironment(0xcab)

/** The offsets of the list as a guest walks it. @throws Error at a loop or a pointer out of place */
function walk(fn: TestFunction): number[] {
  const offsets: number[] = []
  for (let at = fn.configRead(0x34, 1); at !== 0; at = fn.configRead(at + 1, 1)) {
    if (at < 0x40 || at % 4 !== 0 || offsets.includes(at)) throw new Error(`pointer to ${at} after ${offsets}`)
    offsets.push(at)
  }
  return offsets
}

describe("the capability list", () => {
  it("PCI-05 Status bit 4 is set and 0x34 leads to a dword-aligned list that ends in 0, in the order of adding", () => {
    const fn = msixFunction(2)
    const first = fn.addCapability(0x09, new Uint8Array(14))
    const second = fn.addCapability(0x09, new Uint8Array(15))
    const third = fn.addCapability(0x05, new Uint8Array(3))
    expect(fn.configRead(0x06, 2) & 0x10).toBe(0x10)
    expect(walk(fn)).toEqual([0x40, first, second, third])
    expect([first, second, third]).toEqual([0x4c, 0x5c, 0x70])
    expect(walk(fn).map((at) => fn.configRead(at, 1))).toEqual([0x11, 0x09, 0x09, 0x05])
  })

  it("PCI-05 without a capability Status bit 4 is clear and the pointer is 0", () => {
    const fn = testFunction()
    expect(fn.configRead(0x06, 2)).toBe(0)
    expect(fn.configRead(0x34, 4)).toBe(0)
  })

  it("PCI-11 only the bits of a capability's mask can be written, and never its id and next pointer", () => {
    const fn = testFunction()
    const at = fn.addCapability(0x09, Uint8Array.of(0x11, 0x22, 0x33, 0x44, 0x55, 0x66), Uint8Array.of(0x00, 0x0f, 0x00, 0xff, 0x80, 0x00))
    fn.addCapability(0x01, new Uint8Array(2))
    const id = fn.configRead(at, 2)
    for (let i = 0; i < 8; i++) fn.configWrite(at + i, 1, 0xff)
    expect(fn.configRead(at, 2)).toBe(id)
    expect([2, 3, 4, 5, 6, 7].map((i) => fn.configRead(at + i, 1))).toEqual([0x11, 0x2f, 0x33, 0xff, 0xd5, 0x66])
    for (let i = 0; i < 8; i += 4) fn.configWrite(at + i, 4, 0)
    expect(fn.configRead(at, 2)).toBe(id)
    expect([2, 3, 4, 5, 6, 7].map((i) => fn.configRead(at + i, 1))).toEqual([0x11, 0x20, 0x33, 0x00, 0x55, 0x66])
  })

  it("PCI-05 random lists are walked to their end, and a capability that does not fit is refused without a change", () => {
    const rng = new Rng(SEED)
    for (let round = 0; round < 50; round++) {
      const fn = testFunction()
      const expected: number[] = []
      let end = 0x40
      for (;;) {
        const length = rng.between(0, 40)
        if (end + 2 + length > 256) {
          expect(() => fn.addCapability(0x09, new Uint8Array(length))).toThrow(
            /capability 0x09 of \d+ bytes does not fit: configuration space is full/,
          )
          break
        }
        expect(fn.addCapability(rng.between(1, 0x14), rng.bytes(length))).toBe(end)
        expected.push(end)
        end = Math.ceil((end + 2 + length) / 4) * 4
      }
      expect(walk(fn), `seed ${SEED}`).toEqual(expected)
    }
  })

  it("a capability may end with the last byte of configuration space, and the next one is refused", () => {
    const fn = testFunction()
    expect(fn.addCapability(0x09, new Uint8Array(256 - 0x40 - 2).fill(0x5a))).toBe(0x40)
    expect(fn.configRead(255, 1)).toBe(0x5a)
    expect(() => fn.addCapability(0x09, new Uint8Array(0))).toThrow(RangeError)
  })

  it("a mask of another length than the body is refused", () => {
    expect(() => testFunction().addCapability(0x09, new Uint8Array(4), new Uint8Array(3))).toThrow("mask of 3 bytes for a body of 4")
  })
})
