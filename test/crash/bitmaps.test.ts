/** Power cuts while an image with persistent bitmaps is open: what says that it is consistent knows of every change on the disk. */
import { describe, expect, it } from "vitest"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { applyChange, crashedFile, RecordingFile } from "../support/recording-file.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"

const seed = seedFromEnvironment(31)
const SIZE = 256 << 10
const UNIT = 4096

/** An image whose disk is all ones where bitmap "first" says so, with clusters of `clusterSize`. */
function base(clusterSize: number): MemoryFile {
  const file = new MemoryFile()
  createQcow2(file, { size: SIZE, clusterSize })
  const image = openInMemory(file)
  image.bitmaps.add("first", { granularity: UNIT })
  image.bitmaps.add("second", { granularity: 512, isEnabled: false })
  image.pwrite(new Uint8Array(2 * UNIT).fill(1), 5 * UNIT)
  image.close()
  return file.clone()
}

function verify(crashed: MemoryFile, where: string): void {
  const found = checkQcow2(crashed)
  if (found.corruptions > 0) throw new Error(`${where}: ${found.findings[0]?.message}`)
  const image = openInMemory(crashed)
  const content = new Uint8Array(SIZE)
  image.pread(content, 0)
  const first = image.bitmaps.list().find(({ name }) => name === "first")
  if (first?.isConsistent === true) {
    const marked = new Uint8Array(SIZE)
    for (const { offset, length } of image.bitmaps.changed("first")) marked.fill(1, offset, offset + length)
    const missed = content.findIndex((byte, at) => byte !== 0 && marked[at] === 0)
    if (missed >= 0) throw new Error(`${where}: byte ${missed} has changed, and the bitmap does not say so`)
  }
  image.pwrite(new Uint8Array(512).fill(3), 9 * UNIT)
  image.close()
  const after = checkQcow2(crashed.clone())
  if (after.corruptions > 0) throw new Error(`${where}, used again: ${after.findings[0]?.message}`)
}

describe(`power cut at every write with bitmaps, seed ${seed}`, () => {
  for (const clusterSize of [512, 4096]) {
    it(`QC-BMP-09 QC-WO-08 clusters of ${clusterSize}: sound, and no consistent bitmap misses a change`, () => {
      const start = base(clusterSize)
      const rng = new Rng(seed)
      const recorder = new RecordingFile(start.clone())
      for (let round = 0; round < 3; round++) {
        const image = openInMemory(new Reopened(recorder))
        for (let count = 0; count < 6; count++) {
          const offset = rng.below(SIZE - 20_000)
          image.pwrite(new Uint8Array(1 + rng.below(20_000)).fill(2), offset)
          if (rng.chance(0.3)) image.flush()
        }
        if (round === 0) image.bitmaps.add("third", { granularity: 512 })
        if (round === 1) image.bitmaps.merge("second", "first")
        if (round === 1) image.resize(SIZE)
        if (round === 2) image.bitmaps.remove("third")
        image.close()
      }
      const { log } = recorder
      const prefix = start.clone()
      for (let length = 0; length <= log.length; length++) {
        verify(prefix.clone(), `cut after ${length} of ${log.length} changes`)
        verify(crashedFile(start, log, length, rng), `cut after ${length} of ${log.length} changes, the unsynced ones in part`)
        const change = log[length]
        if (change !== undefined) applyChange(prefix, change)
      }
      expect(log.length).toBeGreaterThan(50)
    })
  }
})

/** The recorder once more: closing it closes nothing. */
class Reopened extends RecordingFile {
  constructor(recorder: RecordingFile) {
    super(recorder)
  }

  override close(): void {}
}
