/** Some seconds of split.ts. */
import { expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { SplitUsualFuzzer } from "./split.ts"

it("VQ-08 VQ-11 VQ-14 a request that is read fast is the one that the general way reads, whatever its descriptors say", () => {
  const fuzzer = new SplitUsualFuzzer(new Rng(seedFromEnvironment(20261126)))
  for (let round = 0; round < 60_000; round++) fuzzer.round()
  const { taken, scattered, left, broken } = fuzzer.counts
  // Each of them has been tried in earnest.
  expect([taken > 10_000, scattered > 5000, left > 2000, broken > 5000]).toEqual([true, true, true, true])
})

it("VQ-31 RAM that another thread changes between two reads: what is taken holds together, and lies in RAM", () => {
  const fuzzer = new SplitUsualFuzzer(new Rng(seedFromEnvironment(20261127)))
  for (let round = 0; round < 60_000; round++) fuzzer.changingRound()
  expect(fuzzer.counts.changed).toBeGreaterThan(10_000)
})
