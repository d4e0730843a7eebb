/** Drivers on threads of their own, while the host does something to the device. */
import { expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { DrivenRound } from "./driven-round.ts"

const ROUNDS = Number(process.env["ROUNDS"] ?? 6)
const REQUESTS = 400

const seed = seedFromEnvironment(20_261_126)

it(`seed ${seed}: drivers on other threads lose no request and no interrupt, whatever the host does meanwhile`, async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const counts = await new DrivenRound(new Rng(seed + round), REQUESTS).run().catch((error: unknown) => {
      throw new Error(`SEED=${seed + round} ROUNDS=1: ${String(error)}`, { cause: error })
    })
    expect(counts.requests % REQUESTS).toBe(0)
    expect(counts.requests).toBeGreaterThan(0)
  }
}, 120_000)
