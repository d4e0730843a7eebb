/** A hostile guest with two processors: a real thread changes descriptors, rings and headers while the device reads them. */
import { expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { ScribbledRam } from "./scribbled-round.ts"

const ROUNDS = 12
const KICKS = 600

it("when another thread scribbles over RAM nothing throws or hangs, and only bytes that a descriptor names change", async () => {
  const seed = seedFromEnvironment(20261126)
  console.log(`thread fuzzer: seed ${seed}`)
  const ram = new ScribbledRam(new Rng(seed))
  try {
    for (let round = 0; round < ROUNDS; round++) await ram.round(KICKS)
  } finally {
    await ram.close()
  }
  const { kicks, calls, words } = ram.counts
  expect(kicks).toBe(ROUNDS * KICKS)
  expect(calls).toBeGreaterThan(20)
  expect(words).toBeGreaterThan(10_000)
})
