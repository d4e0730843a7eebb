/** A real process, a real file, a real SIGKILL: a few times in every run. Many times: main.ts --kill. */
import { join } from "node:path"
import { expect, it } from "vitest"
import { createImage } from "../../src/backing/create.ts"
import { FlatModel } from "../support/flat-model.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { KILL_CLUSTER_SIZE, killRound } from "./kill.ts"

const seed = seedFromEnvironment(5)

it(`QC-WO-08 QC-WO-09 a process killed under load leaves a sound image with all that was flushed, seed ${seed}`, async () => {
  const path = join(temporaryDirectory(), "killed.qcow2")
  createImage(path, { size: 1 << 20, clusterSize: KILL_CLUSTER_SIZE })
  const rng = new Rng(seed)
  let model = new FlatModel(1 << 20)
  for (let round = 0; round < 3; round++) {
    const after = rng.between(20, 300)
    const left = await killRound(path, model, { seed: seed * 100 + round, after })
    expect(left.progress.done).toBeGreaterThanOrEqual(after)
    model = left.model
  }
})
