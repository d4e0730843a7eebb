/** Damaged NBD servers, a slice for every run. More of it: ROUNDS=100000. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { nbdClientRound, type Outcome } from "./client-round.ts"

const seed = seedFromEnvironment(5000)
const ROUNDS = Number(process.env["ROUNDS"] ?? 60)

describe(`damaged NBD servers, seed ${seed}`, () => {
  it.each([0, 1, 2, 3])("batch %i: calls give data or a BackingError in time, and no stray byte", { timeout: 600_000 }, async (batch) => {
    const outcomes: Record<Outcome, number> = { refused: 0, failed: 0, unharmed: 0 }
    for (let round = 0; round < ROUNDS; round++) {
      const roundSeed = seed + batch * 1_000_000 + round
      try {
        outcomes[await nbdClientRound(new Rng(roundSeed))]++
      } catch (error) {
        if (error instanceof Error) error.message = `seed ${roundSeed}: ${error.message}`
        throw error
      }
    }
    expect(Math.min(...Object.values(outcomes)), "the damage is neither always noticed at once nor ever").toBeGreaterThan(0)
  })
})
