/** A slice of the crash replay over files that answer late, for every run. More: `npm run test:fuzz:late`. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { lateCrashRound } from "./late-replay.ts"
import { crashShapes, roundFor } from "./shapes.ts"

const seed = seedFromEnvironment(83)

describe(`power cut at every write of a log that drains late, seed ${seed}`, () => {
  for (const shape of crashShapes) {
    it(`QC-WO-01 QC-WO-02 QC-WO-03 QC-WO-04 QC-WO-08 ${shape.name}: sound, and each sector is as flushed or as written later`, async () => {
      expect(
        await lateCrashRound({ ...roundFor(shape, new Rng(seed)), operations: 20, share: shape.share < 0.1 ? 0.1 : 0.4 }),
      ).toBeGreaterThan(0)
    })
  }
})
