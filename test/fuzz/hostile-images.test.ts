/** A slice of the image fuzzing for every run. More of it: main.ts. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { fuzzRound } from "./hostile-images.ts"

const seed = seedFromEnvironment(20_000)
const ROUNDS = Number(process.env["ROUNDS"] ?? 150)

describe(`hostile images, seed ${seed}`, () => {
  for (let batch = 0; batch < 8; batch++) {
    it(`QC-LIM-05 QC-LIM-06 QC-CHK-09 QC-OVL-03 batch ${batch}: calls give data or a BackingError in a budget, and no stray write`, () => {
      const outcomes = { refused: 0, read: 0, written: 0 }
      for (let round = 0; round < ROUNDS; round++) {
        const roundSeed = seed + batch * 1_000_000 + round
        try {
          outcomes[fuzzRound(new Rng(roundSeed))]++
        } catch (error) {
          if (error instanceof Error) error.message = `seed ${roundSeed}: ${error.message}`
          throw error
        }
      }
      expect(Math.min(outcomes.refused, outcomes.written), "the damage is neither always noticed at once nor ever").toBeGreaterThan(0)
    })
  }
})
