/** Power cuts while options of an image change: each step of `amendImage` over a file that records. */
import { describe, expect, it } from "vitest"
import { amendedHeader, asVersion2 } from "../../src/backing/qcow2/amend/amended-header.ts"
import { expandZeroes } from "../../src/backing/qcow2/amend/expand-zeroes.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { examine } from "../../src/backing/qcow2/check/examination.ts"
import { changeRefcountWidth } from "../../src/backing/qcow2/check/rebuild-refcounts.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { readHeader } from "../../src/backing/qcow2/format/parse-header.ts"
import { HeaderStore } from "../../src/backing/qcow2/metadata/header-store.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { modelOf, openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { makeShape, qcow2Shapes } from "../support/shapes.ts"
import { applyChange, crashedFile, RecordingFile } from "../support/recording-file.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { crashesOf, Reopened, withData } from "./crashed-files.ts"
import { expectSnapshots } from "./whole/operations.ts"
import { wholeModelOf } from "./whole/replay.ts"

const seed = seedFromEnvironment(47)
const SIZE = 300 << 10

const openBacking = (): RawBacking => new RawBacking(MemoryFile.of(new Uint8Array(SIZE).fill(5), { path: "base", readOnly: true }))

describe(`power cut at every write of amendments, seed ${seed}`, () => {
  for (const { clusterSize, hasBacking } of [{ clusterSize: 512, hasBacking: true }, { clusterSize: 8192, hasBacking: false }]) {
    it(`QC-WO-06 QC-WO-08 clusters of ${clusterSize}: the disk reads the same, and is consistent`, () => {
      const options = hasBacking ? { openBacking } : {}
      const start = new MemoryFile()
      createQcow2(start, { size: SIZE, clusterSize, ...(hasBacking ? { backing: "base", backingFormat: "raw" } : {}) })
      const disk = openInMemory(start, options)
      disk.pwrite(new Rng(seed).bytes(50_000), 1000)
      disk.writeZeroes(20_000, 70_000, false)
      disk.discard(100_000, 60_000)
      const model = modelOf(disk)
      disk.close()
      const base = start.clone()
      const recorder = new RecordingFile(base.clone())
      const image = openInMemory(new Reopened(recorder), options)
      expandZeroes(image)
      image.close()
      const rewrite = (next: (store: HeaderStore) => ReturnType<typeof asVersion2>): void => {
        const store = new HeaderStore(recorder, readHeader(recorder))
        store.rewrite(next(store))
      }
      rewrite(({ header }) => asVersion2(header))
      rewrite(({ header }) => amendedHeader(header, { compat: "1.1", lazyRefcounts: true }, "x"))
      changeRefcountWidth(examine(recorder), 6)
      if (hasBacking) rewrite(({ header }) => amendedHeader(header, { backing: "another-name", backingFormat: "raw" }, "x"))
      const { log } = recorder
      const prefix = base.clone()
      const rng = new Rng(seed)
      for (let length = 0; length <= log.length; length++) {
        for (const crashed of [prefix.clone(), crashedFile(base, log, length, rng)]) {
          const found = checkQcow2(crashed)
          if (found.corruptions > 0) throw new Error(`cut after ${length} of ${log.length}: ${found.findings[0]?.message}`)
          const difference = model.firstDifferenceOf(openInMemory(crashed, options))
          if (difference >= 0) throw new Error(`cut after ${length} of ${log.length}: byte ${difference} is wrong`)
        }
        const change = log[length]
        if (change !== undefined) applyChange(prefix, change)
      }
      expect(log.length).toBeGreaterThan(10)
    })
  }

  for (const shape of qcow2Shapes.filter(({ name }) => /LUKS|extended L2|external data file/.test(name))) {
    it(`QC-WO-06 QC-WO-08 ${shape.name}: other refcounts and another header leave the disk as it was, and its snapshot`, () => {
      const { file, opening } = makeShape(shape, SIZE)
      const data = opening.openDataFile?.({ name: "data", format: undefined, imagePath: "" })
      const disk = openInMemory(file, withData(opening, data))
      disk.pwrite(new Rng(seed).bytes(50_000), 1000)
      if (data === undefined) disk.snapshots.create({ name: "kept" })
      disk.writeZeroes(20_000, 70_000, false)
      disk.discard(100_000, 60_000)
      const model = wholeModelOf(disk)
      disk.close()
      const base = file.clone()
      const recorder = new RecordingFile(base.clone())
      for (const order of [6, 3]) changeRefcountWidth(examine(recorder), order)
      const store = new HeaderStore(recorder, readHeader(recorder))
      store.rewrite(amendedHeader(store.header, { lazyRefcounts: true }, "x"))
      const rng = new Rng(seed)
      let points = 0
      for (const { file: crashed, where } of crashesOf(recorder.log, { base, rng })) {
        points++
        const found = checkQcow2(crashed)
        if (found.corruptions > 0) throw new Error(`${where}: ${found.findings[0]?.message}`)
        const other = data instanceof MemoryFile ? data.clone({ readOnly: true }) : undefined
        const image = openInMemory(crashed.clone({ readOnly: true }), withData(opening, other))
        if (model.disk.firstDifferenceOf(image) >= 0) throw new Error(`${where}: the disk differs`)
        expectSnapshots(image, model)
      }
      expect(points).toBeGreaterThan(10)
    })
  }
})
