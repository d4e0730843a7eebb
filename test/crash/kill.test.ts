/** A real process, a real file, a real SIGKILL: a few times in every run. Many times: main.ts --kill. */
import { join } from "node:path"
import { expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { killRound, makeKillImage } from "./kill.ts"

const seed = seedFromEnvironment(5)

it(`QC-WO-08 QC-WO-09 QC-SNAP-05 QC-WO-10 a killed process leaves a sound image with all that was stored, seed ${seed}`, async () => {
  const path = join(temporaryDirectory(), "killed.qcow2")
  let model = makeKillImage(path)
  const rng = new Rng(seed)
  for (let round = 0; round < 3; round++) {
    const after = rng.between(20, 300)
    const left = await killRound(path, model, { seed: seed * 100 + round, after })
    expect(left.done).toBeGreaterThanOrEqual(after)
    model = left.model
  }
}, 60_000)
