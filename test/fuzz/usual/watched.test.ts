/** Some seconds of watched.ts. */
import { afterEach, expect, it, vi } from "vitest"
import { Gate } from "../../../src/virtio/blk/usual/gate.ts"
import { UsualKick } from "../../../src/virtio/blk/usual/usual-kick.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { WatchedFuzzer } from "./watched.ts"

// Spies would keep the memory of every round.
const { serve } = UsualKick.prototype
const { isPlain, letsAllPass } = Gate.prototype

afterEach(() => {
  UsualKick.prototype.serve = serve
  Object.assign(Gate.prototype, { isPlain, letsAllPass })
  vi.restoreAllMocks()
})

it.each(["split", "packed"])(
  "all three paths of a %s ring give the same throttling, statistics and latencies, whatever happens",
  async (ring) => {
    const fuzzer = new WatchedFuzzer(new Rng(seedFromEnvironment(20261201)), { packed: ring === "packed" })
    vi.spyOn(performance, "now").mockImplementation(() => fuzzer.current?.now ?? 0)
    vi.spyOn(Math, "random").mockImplementation(() => fuzzer.current?.random() ?? 0)
    const mayBeFast = (): boolean => fuzzer.current?.way !== "general"
    Gate.prototype.isPlain = function (this: Gate) {
      return mayBeFast() && isPlain.call(this)
    }
    let passed = 0
    Gate.prototype.letsAllPass = function (this: Gate, tally) {
      if (!mayBeFast() || !letsAllPass.call(this, tally)) return false
      passed++
      return true
    }
    let served = 0
    UsualKick.prototype.serve = function (this: UsualKick, turn) {
      const isServed = serve.call(this, turn)
      if (isServed && this.isWatched) served++
      return isServed
    }
    for (let round = 0; round < 25; round++) await fuzzer.round()
    // All of it has been tried in earnest.
    const counts = { served, passed, waits: fuzzer.waits }
    expect([Object.values(counts).every((count) => count > 200), counts]).toEqual([true, counts])
  },
)
