/** A slice of the ring fuzzer; test/fuzz/ring.ts runs more of it. */
import { describe, expect, it } from "vitest"
import { damages } from "../../fuzz/ring-chains.ts"
import { RingFuzzer } from "../../fuzz/ring-round.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

describe("hostile rings", () => {
  it("VQ-06 VQ-10 VQ-11 VQ-13 VQ-14 VQ-17 VQ-19 BLK-13 each damage to a sound batch has one outcome, to the last byte", () => {
    const seed = seedFromEnvironment(20260810)
    const fuzzer = new RingFuzzer(new Rng(seed))
    for (let round = 0; round < 1200; round++) {
      try {
        fuzzer.round()
      } catch (error) {
        throw new Error(`round ${round} of seed ${seed}`, { cause: error })
      }
    }
    const others = [
      "garbage", "a head beyond the table", "an available index too far ahead", "the same head twice", "another sector", "another type",
    ]
    for (const name of [...Object.keys(damages), ...others]) expect([name, (fuzzer.counts.get(name) ?? 0) > 5]).toEqual([name, true])
  })
})
