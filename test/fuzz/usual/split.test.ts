/** Some seconds of split.ts. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { SplitUsualFuzzer } from "./split.ts"

describe.each(["fast", "walked"] as const)("requests that are read as rows, %s,", (way) => {
  it("VQ-08 VQ-11 VQ-14 rows are the same as on the general path, whatever descriptors say", () => {
    const fuzzer = new SplitUsualFuzzer(new Rng(seedFromEnvironment(20261126)), way)
    for (let round = 0; round < 50_000; round++) fuzzer.round()
    const { taken, scattered, left, broken } = fuzzer.counts
    // Each of them has been tried in earnest.
    expect([taken > 8000, scattered > 4000, left > 1500, broken > 4000]).toEqual([true, true, true, true])
  })

  it("VQ-31 rows are consistent and lie in RAM, even if another thread changes descriptors between two reads", () => {
    const fuzzer = new SplitUsualFuzzer(new Rng(seedFromEnvironment(20261127)), way)
    for (let round = 0; round < 40_000; round++) fuzzer.changingRound()
    expect(fuzzer.counts.changed).toBeGreaterThan(8000)
  })
})
