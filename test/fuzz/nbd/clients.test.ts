/** A slice of the hostile NBD clients for every run. More of them: ROUNDS=10000. */
import { describe, expect, it } from "vitest"
import { serve } from "../../support/nbd/server.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { fuzzedDisk, fuzzRound } from "./clients.ts"

const seed = seedFromEnvironment(80_000)
const ROUNDS = Number(process.env["ROUNDS"] ?? 60)

describe(`hostile NBD clients, seed ${seed}`, () => {
  for (let batch = 0; batch < 4; batch++) {
    it(`batch ${batch}: every answer follows the protocol, other clients' disks stay as they are, and no client is left over`, async () => {
      const outcomes = { handshake: 0, garbage: 0, requests: 0 }
      for (let round = 0; round < ROUNDS; round++) {
        const roundSeed = seed + batch * 1_000_000 + round
        try {
          const { disk, model } = fuzzedDisk()
          const { server, connect } = await serve({ exports: [{ backing: disk }] })
          outcomes[await fuzzRound({ server, disk, model, connect }, new Rng(roundSeed))]++
          await server.close()
        } catch (error) {
          if (error instanceof Error) error.message = `seed ${roundSeed}: ${error.message}`
          throw error
        }
      }
      expect(Math.min(...Object.values(outcomes))).toBeGreaterThan(0)
    })
  }
})
