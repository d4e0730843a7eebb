/** A slice of the crash replay for every run: all crash points of short workloads on every golden shape. More of it: main.ts. */
import { describe, expect, it } from "vitest"
import { join } from "node:path"
import { itWithQemu, qemuCheck } from "../support/qemu.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { crashRound } from "./replay.ts"
import { crashShapes, roundFor } from "./shapes.ts"

const seed = seedFromEnvironment(99)

describe(`power cut at every write, seed ${seed}`, () => {
  for (const shape of crashShapes) {
    it(`QC-WO-01 QC-WO-02 QC-WO-03 QC-WO-04 QC-WO-08 QC-WO-09 ${shape.name}: no corruption, nothing flushed is lost, nothing else appears`, () => {
      expect(crashRound({ ...roundFor(shape, new Rng(seed)), operations: 40, share: 0.3 })).toBeGreaterThan(0)
    })
  }

  itWithQemu("QC-WO-08 qemu-img check finds no corruption either", () => {
    const path = join(temporaryDirectory(), "crashed.qcow2")
    let sampled = 0
    const sample = (crashed: { save(path: string): void }): void => {
      if (++sampled > 60) return
      crashed.save(path)
      expect([0, 3], qemuCheck(path).text).toContain(qemuCheck(path).exitCode)
    }
    for (const shape of crashShapes.filter(({ name }) => !/overlay|dirty|lazy/.test(name))) crashRound({ ...roundFor(shape, new Rng(seed + 1)), operations: 30, share: 0.4, sample })
    expect(sampled).toBeGreaterThan(10)
  })
})
