/** Bytes of a READ are taken once each, whatever order they come in. */
import { expect, it } from "vitest"
import { Coverage } from "../../../src/backing/nbd/client/connection/coverage.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(31)

it(`agrees with one flag for each byte (SEED=${seed})`, () => {
  const rng = new Rng(seed)
  for (let round = 0; round < 300; round++) {
    const size = rng.between(1, 60)
    const coverage = new Coverage(size)
    const taken = new Uint8Array(size)
    for (let step = 0; step < 40; step++) {
      const start = rng.below(size + 3)
      const length = rng.between(1, 1 + rng.below(size + 3))
      const isFree = start + length <= size && taken.subarray(start, start + length).every((flag) => flag === 0)
      expect(coverage.claim(start, length)).toBe(isFree)
      // What is refused ends the connection: the object is not used any further.
      if (!isFree) break
      taken.fill(1, start, start + length)
      expect(coverage.isComplete).toBe(taken.every((flag) => flag === 1))
    }
  }
})

it("is complete when all pieces have come in any order", () => {
  const rng = new Rng(seed)
  for (let round = 0; round < 100; round++) {
    const coverage = new Coverage(1000)
    const pieces = rng.shuffle(Array.from({ length: 100 }, (_, index) => index * 10))
    for (const start of pieces) expect(coverage.claim(start, 10)).toBe(true)
    expect(coverage.isComplete).toBe(true)
    expect(coverage.claim(0, 1)).toBe(false)
  }
})

it("keeps a limited number of gaps", () => {
  const coverage = new Coverage(1_000_000)
  let count = 0
  while (coverage.claim(1 + count * 2, 1)) count++
  expect(count).toBe(4096)
})

it("refuses lengths and offsets that are no part of the READ", () => {
  const coverage = new Coverage(10)
  expect(coverage.claim(0, 11)).toBe(false)
  expect(coverage.claim(10, 1)).toBe(false)
  expect(coverage.claim(2 ** 53, 1)).toBe(false)
  expect(coverage.claim(5, 2 ** 32)).toBe(false)
})
