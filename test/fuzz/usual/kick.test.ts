/** Some seconds of kick.ts. */
import { afterEach, expect, it } from "vitest"
import { Completion } from "../../../src/virtio/blk/completion.ts"
import { UsualKick } from "../../../src/virtio/blk/usual/usual-kick.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { KickFuzzer } from "./kick.ts"

const { serve } = UsualKick.prototype
const { completeOnly } = Completion.prototype

afterEach(() => {
  UsualKick.prototype.serve = serve
  Completion.prototype.completeOnly = completeOnly
})

it.each([
  ["split", "RAM"], ["packed", "RAM"], ["split", "shared RAM"], ["packed", "shared RAM"],
])("VQ-08 VQ-21 PK-15 the short path of a %s ring in %s does what the general path does, whatever happens", async (ring, ram) => {
  const counts = { served: 0, left: 0, rows: 0 }
  // A spy would keep what it is called with, and with that the memory of every round.
  UsualKick.prototype.serve = function (this: UsualKick, turn) {
    const isServed = serve.call(this, turn)
    counts[isServed ? "served" : "left"]++
    return isServed
  }
  Completion.prototype.completeOnly = function (this: Completion, ...parts) {
    counts.rows++
    return completeOnly.apply(this, parts)
  }
  const fuzzer = new KickFuzzer(new Rng(seedFromEnvironment(20261130)), { packed: ring === "packed", shared: ram === "shared RAM" })
  for (let round = 0; round < 40; round++) await fuzzer.round()
  // Each way has been tried in earnest.
  expect([counts.served > 120, counts.left > 120, counts.rows > 40, fuzzer.steps]).toEqual([true, true, true, 1200])
})
