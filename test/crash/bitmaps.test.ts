/** A slice of the crash replay of images with bitmaps for every run. More: main.ts. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { qcow2Shapes } from "../support/shapes.ts"
import { bitmapCrashRound } from "./bitmap-replay.ts"

const seed = seedFromEnvironment(31)
const some = /512-byte clusters$|4 KiB|extended L2 entries over|external data file$|raw external|with LUKS|lazy/

describe(`power cut at every write with bitmaps, seed ${seed}`, () => {
  for (const shape of qcow2Shapes.filter(({ name }) => some.test(name))) {
    it(`QC-BMP-09 QC-WO-08 ${shape.name}: the image is sound, and no consistent bitmap misses a change`, () => {
      expect(bitmapCrashRound(shape, new Rng(seed), 0.3)).toBeGreaterThan(20)
    })
  }
})
