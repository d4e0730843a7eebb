/** A slice of the ring fuzzers over a zoned disk; test/fuzz/ring.ts runs more of it. */
import { describe, expect, it } from "vitest"
import { PackedRingFuzzer } from "../../fuzz/packed/round.ts"
import { RingFuzzer } from "../../fuzz/ring-round.ts"
import { ZonedFuzzDisk } from "../../fuzz/zoned-fuzz-disk.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

describe("hostile rings of a zoned disk", () => {
  const seed = seedFromEnvironment(20261126)
  for (const [name, Fuzzer] of [["split", RingFuzzer], ["packed", PackedRingFuzzer]] as const) {
    it(`${name}: requests for zones among damaged ones have one outcome in RAM, on the disk and in its zones`, () => {
      const fuzzer = new Fuzzer(new Rng(seed), new ZonedFuzzDisk())
      for (let round = 0; round < 600; round++) {
        try {
          fuzzer.round()
        } catch (error) {
          throw new Error(`round ${round} of seed ${seed}`, { cause: error })
        }
      }
      const kinds = [...fuzzer.counts].filter(([kind, count]) => kind.includes("zones: ") && count > 5)
      expect(kinds).toHaveLength(4)
    })
  }
})
