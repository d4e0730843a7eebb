/** Random work on files that answer late, a little of it for every run. More: `npm run test:fuzz:late`. */
import { describe, expect, it } from "vitest"
import { lateDiskRound } from "../../fuzz/late-disk-round.ts"
import { lateFileRound } from "../../fuzz/late-file-round.ts"
import { lateFlowRound } from "../../fuzz/late-flow-round.ts"
import { lateShapes } from "../../fuzz/late-shapes.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(71)

describe(`files that answer late, seed ${seed}`, () => {
  it("QC-WO-01 reads agree with a flat file, and after each sync the source has what was written before", async () => {
    let [reads, syncs] = [0, 0]
    for (let round = 0; round < 25; round++) {
      const done = await lateFileRound(new Rng(seed + round))
      reads += done.reads
      syncs += done.syncs
    }
    expect(reads).toBeGreaterThan(100)
    expect(syncs).toBeGreaterThan(25)
  })

  it("ST-03 reads in order from a stream that breaks off, beside others, resets and closing, agree with a flat file", async () => {
    let pieces = 0
    for (let round = 0; round < 30; round++) {
      const one = seed + round
      try {
        pieces += await lateFlowRound(new Rng(one))
      } catch (error) {
        throw new Error(`seed ${one} failed`, { cause: error })
      }
    }
    expect(pieces).toBeGreaterThan(500)
  })

  for (const shape of lateShapes) {
    it(`QC-L2-11 ${shape.name}: after two to eight requests at a time the image is sound and agrees with a flat disk`, async () => {
      expect(await lateDiskRound(shape, new Rng(seed), 12)).toBeGreaterThan(0)
    })
  }
})
