/** A slice of the crash replay of snapshots and sizes over files that answer late. More: `npm run test:fuzz:late`. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { qcow2Shapes } from "../../support/shapes.ts"
import { lateWholeCrashRound } from "./late-replay.ts"
import { wholeRoundFor } from "./replay.ts"

const seed = seedFromEnvironment(317)

describe(`power cut while snapshots come and go over a log that drains late, seed ${seed}`, () => {
  for (const shape of qcow2Shapes.filter(({ options }) => (options.clusterSize ?? 0) <= 65536)) {
    it(`QC-SNAP-05 QC-SNAP-07 QC-SNAP-09 QC-WO-05 QC-WO-10 ${shape.name}: an unflushed operation is done or not done`, async () => {
      expect(await lateWholeCrashRound({ ...wholeRoundFor(shape, new Rng(seed)), operations: 20, share: 0.15 })).toBeGreaterThan(0)
    })
  }
})
