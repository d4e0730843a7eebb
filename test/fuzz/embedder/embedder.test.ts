/** A slice of the embedder fuzzer; and that it finds devices that lose what they are told, and RAM that an old life stores into. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { EmbedderFuzzer } from "./round.ts"

const seed = seedFromEnvironment(20_261_126)
const ROUNDS = Number(process.env["ROUNDS"] ?? 20)

describe(`an embedder that calls the device from inside of its calls, seed ${seed}`, () => {
  it("nothing hangs, no request is lost, and a driver finds an ordinary disk at the end", async () => {
    const done = new Map<string, number>()
    for (let round = 0; round < ROUNDS; round++) {
      const fuzzer = new EmbedderFuzzer(new Rng(seed + round), { hasBugs: false })
      await fuzzer.run().catch((error: unknown) => {
        throw new Error(`SEED=${seed + round} ROUNDS=1: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
      })
      for (const [what, count] of fuzzer.counts) done.set(what, (done.get(what) ?? 0) + count)
    }
    // From inside of many kinds of calls.
    expect(new Set([...done.keys()].map((what) => what.split(":")[0])).size).toBeGreaterThan(ROUNDS < 20 ? 0 : 10)
  }, 60_000)
})
