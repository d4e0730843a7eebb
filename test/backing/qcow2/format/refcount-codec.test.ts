/** Reference counts of 1 to 64 bits in their blocks. */
import { describe, expect, it } from "vitest"
import { firstZeroRefcount, refcountCodec } from "../../../../src/backing/qcow2/format/refcount-codec.ts"
import { Rng } from "../../../support/rng.ts"

const ORDERS = [0, 1, 2, 3, 4, 5, 6]

/** The refcount at `index`, by the format's text: bit by bit below a byte, big-endian bytes above. */
function slowGet(bytes: Uint8Array, order: number, index: number): bigint {
  const bits = 2 ** order
  let value = 0n
  if (bits < 8) {
    for (let bit = 0; bit < bits; bit++) {
      const at = index * bits + bit
      if ((((bytes[Math.floor(at / 8)] ?? 0) >> (at % 8)) & 1) === 1) value |= 1n << BigInt(bit)
    }
    return value
  }
  for (let byte = 0; byte < bits / 8; byte++) value = (value << 8n) | BigInt(bytes[(index * bits) / 8 + byte] ?? 0)
  return value
}

describe("refcount codec", () => {
  it.each(ORDERS)("QC-REF-03 order %i: a stored refcount reads back, and no neighbour changes", (order) => {
    const rng = new Rng(100 + order)
    const bits = 2 ** order
    const bytes = new Uint8Array(512)
    const view = new DataView(bytes.buffer)
    const count = (512 * 8) / bits
    const model = new Array<number>(count).fill(0)
    const codec = refcountCodec(order)
    for (let step = 0; step < 2000; step++) {
      const index = rng.below(count)
      const value = rng.below(Math.min(2 ** bits, Number.MAX_SAFE_INTEGER))
      codec.set(view, index, value)
      model[index] = value
      expect(codec.get(view, index)).toBe(value)
      expect(slowGet(bytes, order, index)).toBe(BigInt(value))
    }
    for (let index = 0; index < count; index++) expect(codec.get(view, index)).toBe(model[index])
  })

  it.each(ORDERS)("order %i: the first refcount of 0 is found from any index on", (order) => {
    const rng = new Rng(200 + order)
    const bits = 2 ** order
    const count = (512 * 8) / bits
    const codec = refcountCodec(order)
    for (let round = 0; round < 60; round++) {
      const view = new DataView(new ArrayBuffer(512))
      for (let index = 0; index < count; index++) {
        codec.set(view, index, rng.chance(0.5) ? 1 : Math.min(2 ** bits - 1, Number.MAX_SAFE_INTEGER))
      }
      const zeroes = Array.from({ length: rng.below(4) }, () => rng.below(count))
      for (const index of zeroes) codec.set(view, index, 0)
      for (let probe = 0; probe < 20; probe++) {
        const from = rng.below(count + 1)
        const expected = Math.min(count, ...zeroes.filter((index) => index >= from))
        expect(firstZeroRefcount(view, order, from, count)).toBe(expected)
      }
    }
  })

  it("QC-REF-03 order 0: the refcount of cluster 3 is bit 3 of byte 0", () => {
    const bytes = new Uint8Array(512)
    refcountCodec(0).set(new DataView(bytes.buffer), 3, 1)
    expect(bytes[0]).toBe(0b1000)
  })

  it("QC-REF-07 a 64-bit refcount above 2^53 is not mistaken for a small one", () => {
    const bytes = new Uint8Array(512).fill(0xff)
    expect(refcountCodec(6).get(new DataView(bytes.buffer), 1)).toBeGreaterThan(Number.MAX_SAFE_INTEGER)
  })

  it("refuses an order that does not exist", () => {
    expect(() => refcountCodec(7)).toThrow(RangeError)
  })
})
