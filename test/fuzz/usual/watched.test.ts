/** Some seconds of watched.ts. */
import { afterEach, expect, it, vi } from "vitest"
import { UsualKick } from "../../../src/virtio/blk/usual/usual-kick.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { WatchedFuzzer } from "./watched.ts"

const { serve } = UsualKick.prototype

afterEach(() => {
  UsualKick.prototype.serve = serve
  vi.restoreAllMocks()
})

it.each(["split", "packed"])(
  "a short kick of a %s ring counts in throttles, statistics and samples of latency as a long one does, whatever happens",
  async (ring) => {
    const fuzzer = new WatchedFuzzer(new Rng(seedFromEnvironment(20261201)), { packed: ring === "packed" })
    vi.spyOn(performance, "now").mockImplementation(() => fuzzer.current?.now ?? 0)
    vi.spyOn(Math, "random").mockImplementation(() => fuzzer.current?.random() ?? 0)
    let served = 0
    // A spy would keep the memory of every round.
    UsualKick.prototype.serve = function (this: UsualKick, turn) {
      const isServed = serve.call(this, turn)
      if (isServed && this.isWatched) served++
      return isServed
    }
    for (let round = 0; round < 25; round++) await fuzzer.round()
    // Both have been tried in earnest.
    expect([served > 200, fuzzer.waits > 200, served, fuzzer.waits]).toEqual([true, true, served, fuzzer.waits])
  },
)
