/** A slice of the power cuts while key slots change; `test/crash/main.ts` has more. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { keySlotCrashRound } from "./key-slots.ts"

const seed = seedFromEnvironment(5)

describe(`power cuts while key slots change, seed ${seed}`, () => {
  for (let round = 0; round < 2; round++) {
    it(`QC-LUKS-05 seed ${seed + round}: nobody is locked out, and nobody who was is let in`, () => {
      expect(keySlotCrashRound(new Rng(seed + round), { changes: 3, share: 0.2 })).toBeGreaterThan(0)
    })
  }
})
