/** A slice of the ring fuzzer over packed rings; test/fuzz/ring.ts runs more of it. */
import { describe, expect, it } from "vitest"
import { damages } from "../../fuzz/packed/chains.ts"
import { PackedRingFuzzer } from "../../fuzz/packed/round.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

describe("hostile packed rings", () => {
  it("PK-05 PK-06 PK-07 PK-15 PK-16 PK-20 PK-22 each damage to a sound batch has one outcome, to the last byte", () => {
    const seed = seedFromEnvironment(20261106)
    const fuzzer = new PackedRingFuzzer(new Rng(seed))
    for (let round = 0; round < 1200; round++) {
      try {
        fuzzer.round()
      } catch (error) {
        throw new Error(`round ${round} of seed ${seed}`, { cause: error })
      }
    }
    const others = ["garbage", "another sector", "another type"].map((name) => `packed: ${name}`)
    for (const name of [...Object.keys(damages), ...others]) expect([name, (fuzzer.counts.get(name) ?? 0) > 5]).toEqual([name, true])
  })
})
