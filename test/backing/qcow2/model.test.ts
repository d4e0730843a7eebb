/** Random operations on qcow2 images of every golden shape, against a flat model; the same seeds through a raw image. */
import { describe, expect, it } from "vitest"
import { RawBacking } from "../../../src/backing/raw.ts"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { goldenBytes, goldenImages } from "../../support/golden.ts"
import { goldenBacking, goldenData, modelOf, openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { runOperations } from "../../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(7)
const OPERATIONS = Number(process.env["OPERATIONS"] ?? 400)

describe(`random operations, seed ${seed}`, () => {
  for (const { file: name, about } of goldenImages) {
    // 4 tables in memory: evictions all the time. And plenty: none.
    for (const cacheTables of [4, 100_000]) {
      it(`QC-BF-05 QC-CMP-11 QC-DZ-02 QC-REF-10 ${name} (${about}), ${cacheTables} cached tables: agree with the model`, () => {
        let file = MemoryFile.of(goldenBytes(name), { path: name })
        const header = new Qcow2Bytes(file.toBytes())
        let data: MemoryFile | undefined
        const open = (): VirtioBacking => openInMemory(file, {
          openBacking: goldenBacking(name),
          openDataFile: (reference) => (data = data?.clone() ?? goldenData(name)(reference)),
          cacheSize: cacheTables * header.clusterSize,
        })
        const disk = open()
        runOperations({
          disk,
          model: modelOf(disk),
          rng: new Rng(seed),
          count: OPERATIONS,
          limits: { size: disk.size, longest: 20_000 },
          // Version 2 over a backing image cannot forget data without showing the old (QC-DZ-03).
          discardRule: header.version === 2 && header.u64(8) !== 0n ? "anything" : { zeroesClustersOf: header.clusterSize },
          reopen(old) {
            old.close()
            // A clone: closing the image has closed the file.
            file = file.clone()
            expect(checkQcow2(file)).toMatchObject({ corruptions: 0, leaks: 0 })
            return open()
          },
        })
      })
    }
  }

  it("agree with the model on a raw image as well", () => {
    let file = new MemoryFile()
    file.truncate(200_000)
    runOperations({
      disk: new RawBacking(file),
      model: new FlatModel(200_000),
      rng: new Rng(seed),
      count: OPERATIONS,
      limits: { size: 200_000, longest: 20_000 },
      discardRule: "anything",
      reopen(old) {
        old.close()
        file = file.clone()
        return new RawBacking(file)
      },
    })
  })
})
