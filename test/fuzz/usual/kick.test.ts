/** Some seconds of kick.ts. */
import { afterEach, expect, it, vi } from "vitest"
import { Completion } from "../../../src/virtio/blk/completion.ts"
import { UsualKick } from "../../../src/virtio/blk/usual/usual-kick.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { KickFuzzer } from "./kick.ts"

afterEach(() => {
  vi.restoreAllMocks()
})

it.each(["split", "packed"])("VQ-08 VQ-21 PK-15 a short kick of a %s ring does what a long one does, whatever happens", async (ring) => {
  const { serve } = UsualKick.prototype
  const counts = { served: 0, left: 0 }
  vi.spyOn(UsualKick.prototype, "serve").mockImplementation(function (this: UsualKick, turn) {
    const isServed = serve.call(this, turn)
    counts[isServed ? "served" : "left"]++
    return isServed
  })
  const rows = vi.spyOn(Completion.prototype, "completeOnly")
  const fuzzer = new KickFuzzer(new Rng(seedFromEnvironment(20261130)), { packed: ring === "packed" })
  for (let round = 0; round < 150; round++) await fuzzer.round()
  // Each way has been tried in earnest.
  expect([counts.served > 500, counts.left > 500, rows.mock.calls.length > 200, fuzzer.steps]).toEqual([true, true, true, 4500])
})
