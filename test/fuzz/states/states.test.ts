/** A slice of the fuzzer of saved states; test/fuzz/ring.ts runs more of it. */
import { expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { StateFuzzer } from "./round.ts"

it("a damaged saved state is refused in one line or gives a working device, and throws nothing else", async () => {
  const seed = seedFromEnvironment(20261126)
  const fuzzer = new StateFuzzer(new Rng(seed))
  await fuzzer.prepare()
  for (let round = 0; round < 120; round++) {
    await fuzzer.round().catch((error: unknown) => {
      throw new Error(`round ${round} of seed ${seed}: ${String(error)}`, { cause: error })
    })
  }
  for (const end of ["refused", "goes on"]) expect([end, (fuzzer.counts.get(end) ?? 0) > 10]).toEqual([end, true])
})
