/** A slice of the regions fuzzer. */
import { afterEach, expect, it } from "vitest"
import { Completion } from "../../../src/virtio/blk/completion.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { RegionsFuzzer } from "./round.ts"

const seed = seedFromEnvironment(20_261_127)
const ROUNDS = Number(process.env["ROUNDS"] ?? 30)

const { completeOnly, completeSingle } = Completion.prototype

afterEach(() => void Object.assign(Completion.prototype, { completeOnly, completeSingle }))

it(`VQ-08 VQ-21 PK-15 seed ${seed}: every path serves a kick alike over several regions of RAM, and no request is lost`, async () => {
  const counts = { rows: 0, singles: 0, steps: 0, broken: 0 }
  // A spy would keep what it is called with, and with that the memory of every round.
  Completion.prototype.completeOnly = function (this: Completion, ...parts) {
    counts.rows++
    return completeOnly.apply(this, parts)
  }
  Completion.prototype.completeSingle = function (this: Completion, ...parts) {
    counts.singles++
    return completeSingle.apply(this, parts)
  }
  for (let round = 0; round < ROUNDS; round++) {
    const fuzzer = new RegionsFuzzer(new Rng(seed + round))
    await fuzzer.round().catch((error: unknown) => {
      throw new Error(`SEED=${seed + round} ROUNDS=1: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
    })
    counts.steps += fuzzer.counts.steps
    counts.broken += fuzzer.counts.broken
  }
  // Each way has been tried in earnest, and most steps leave the device whole.
  if (ROUNDS >= 30) expect([counts.rows > 30, counts.singles > 10, 20 * counts.broken < counts.steps]).toEqual([true, true, true])
}, 60_000)

it.each([
  [2063, "the ring that it finds is not used in the next life"], [2387, "nothing is stored"],
  [2006, "no error of the old life breaks the next one"],
] as const)("VQ-21 seed %i: after a reset while the device looks for RAM %s", async (found, _) => {
  await new RegionsFuzzer(new Rng(found)).round()
})

it("VQ-21 seed 2596: nothing is stored after bus mastering is switched off while the device looks for RAM", async () => {
  await new RegionsFuzzer(new Rng(2596)).round()
})

it("VQ-21 seed 2388: a batch ends when its ring is no longer in RAM", async () => {
  await new RegionsFuzzer(new Rng(2388)).round()
})

it("seed 2059: two queues that write to one sector may be served in either order", async () => {
  await new RegionsFuzzer(new Rng(2059)).round()
})
