/** A slice of the crash replay of commit, rebase and stream for every run. More: main.ts. */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { commitCrashRound, rebaseCrashRound, streamCrashRound } from "./layers.ts"

const seed = seedFromEnvironment(901)
const ROUNDS = Number(process.env["ROUNDS"] ?? 4)

describe.each(Array.from({ length: ROUNDS }, (_, round) => seed + round))("power cuts (seed %i)", (own) => {
  it(
    "QC-WO-08 QC-WO-04 a commit that is cut off loses nothing",
    async () => expect(await commitCrashRound(new Rng(own))).toBeGreaterThan(0),
  )

  it(
    "QC-WO-08 QC-HDR-15 a rebase that is cut off loses nothing",
    async () => expect(await rebaseCrashRound(new Rng(own + 1000))).toBeGreaterThan(0),
  )

  it("QC-WO-08 a stream that is cut off loses nothing", async () => expect(await streamCrashRound(new Rng(own + 2000))).toBeGreaterThan(0))
})
