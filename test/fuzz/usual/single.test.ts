/** Some seconds of single.ts. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { PackedSingleUsualFuzzer, SplitSingleUsualFuzzer } from "./single.ts"

// A packed ring leaves more: chains behind which another waits, too.
describe.each([
  ["split", SplitSingleUsualFuzzer, { taken: 5000, changed: 5000 }],
  ["packed", PackedSingleUsualFuzzer, { taken: 2000, changed: 3000 }],
] as const)("in a %s ring", (_, Fuzzer, least) => {
  it("VQ-08 VQ-11 VQ-14 PK-05 PK-09 PK-15 a single request is read alike on the short path and on the general one", () => {
    const fuzzer = new Fuzzer(new Rng(seedFromEnvironment(20261128)), "fast")
    for (let round = 0; round < 60_000; round++) fuzzer.round()
    const { taken, scattered, left, broken } = fuzzer.counts
    // Each of them has been tried in earnest; it leaves those in several buffers.
    expect([taken > least.taken, scattered, left > 5000, broken > 5000]).toEqual([true, 0, true, true])
  })

  it("VQ-31 a single request is consistent and lies in RAM, even if another thread changes its descriptors meanwhile", () => {
    const fuzzer = new Fuzzer(new Rng(seedFromEnvironment(20261129)), "fast")
    for (let round = 0; round < 60_000; round++) fuzzer.changingRound()
    expect(fuzzer.counts.changed).toBeGreaterThan(least.changed)
  })
})
