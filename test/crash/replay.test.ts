/** A slice of the crash replay for every run: all crash points of short workloads on every golden shape. More of it: main.ts. */
import { describe, expect, it } from "vitest"
import { join } from "node:path"
import type { MemoryFile } from "../support/memory-file.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import { itWithQemu, qemuCheck } from "../support/qemu.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { crashRound } from "./replay.ts"
import { crashShapes, roundFor } from "./shapes.ts"

const seed = seedFromEnvironment(99)

describe(`power cut at every write, seed ${seed}`, () => {
  for (const shape of crashShapes) {
    it(`QC-WO-01 QC-WO-02 QC-WO-03 QC-WO-04 QC-WO-08 QC-WO-09 ${shape.name}: sound, and each sector is as flushed or written later`, () => {
      expect(crashRound({ ...roundFor(shape, new Rng(seed)), operations: 40, share: shape.share })).toBeGreaterThan(0)
    })
  }

  itWithQemu("QC-WO-08 qemu-img check finds no corruption", () => {
    const path = join(temporaryDirectory(), "crashed.qcow2")
    const samples: MemoryFile[] = []
    // Those that `qemu-img check` opens without other files and keys.
    const shapes = crashShapes.filter(({ name, base, data, cipher }) => {
      const hasBacking = new Qcow2Bytes(base.toBytes()).u64(8) !== 0n
      return !hasBacking && data === undefined && cipher === undefined && !/dirty|lazy|2 MiB|64-bit/.test(name)
    })
    for (const shape of shapes) {
      crashRound({ ...roundFor(shape, new Rng(seed + 1)), operations: 25, share: 0.3, sample: (crashed) => void samples.push(crashed) })
    }
    expect(samples.length).toBeGreaterThan(20)
    for (const crashed of new Rng(seed).shuffle(samples).slice(0, 25)) {
      crashed.save(path)
      const found = qemuCheck(path)
      expect([0, 3], found.text).toContain(found.exitCode)
    }
  })
})
