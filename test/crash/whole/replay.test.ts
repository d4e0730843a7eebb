/** A slice of the crash replay of snapshots and sizes for every run. More: main.ts. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { qcow2Shapes } from "../../support/shapes.ts"
import { wholeCrashRound, wholeRoundFor } from "./replay.ts"

const seed = seedFromEnvironment(211)

describe(`power cut at every write while snapshots come and go, seed ${seed}`, () => {
  for (const shape of qcow2Shapes.filter(({ options }) => (options.clusterSize ?? 0) <= 65536)) {
    it(`QC-SNAP-05 QC-SNAP-07 QC-SNAP-09 QC-WO-05 QC-WO-10 ${shape.name}: the operation is done or not done`, () => {
      expect(wholeCrashRound({ ...wholeRoundFor(shape, new Rng(seed)), operations: 25, share: 0.25 })).toBeGreaterThan(0)
    })
  }
})
