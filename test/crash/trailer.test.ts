/** Bytes behind the last cluster of an image, through crashes, failing calls and many openings. */
import { describe, expect, it } from "vitest"
import { openQcow2 } from "../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { filled, withImage } from "../backing/qcow2/small-images.ts"
import { expectTrailer, imageWith, SIZE, trailer, works } from "../backing/qcow2/trailers.ts"
import { FailingFile } from "../support/failing-file.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { crashedFile, RecordingFile } from "../support/recording-file.ts"
import { Rng } from "../support/rng.ts"

const shapes = [[512, 300], [512, 700], [512, 200_000], [4096, 300], [4096, 8192], [4096, 100_001], [65536, 300], [65536, 200_000]] as const

describe("bytes behind the last cluster", () => {
  for (const [clusterSize, length] of shapes) {
    it(`stay at the end of the file over many openings (${length} bytes, clusters of ${clusterSize})`, () => {
      const bytes = trailer(length)
      for (const [, work] of works) {
        const file = imageWith(bytes, clusterSize)
        expectTrailer(file, bytes)
        withImage(file, work)
        expectTrailer(file, bytes)
        for (let round = 0; round < 3; round++) withImage(file, (disk) => disk.pwrite(filled(3000, round), 600_000 + round * 70_000))
        expectTrailer(file, bytes)
      }
    })
  }
})

describe("bytes behind the last cluster, when calls fail", () => {
  const bytes = trailer(3000)
  const work = (disk: Qcow2Image): void => {
    disk.pwrite(filled(60_000, 3), 200_000)
    disk.flush()
    disk.snapshots.create({ name: "one" })
    disk.pwrite(filled(60_000, 4), 0)
    disk.discard(200_000, 60_000)
    disk.resize(SIZE * 3)
  }

  for (const clusterSize of [512, 4096]) {
    it(`survive a crash at any write and the writes after it (clusters of ${clusterSize}, seed 5)`, () => {
      const rng = new Rng(5)
      const base = imageWith(bytes, clusterSize)
      const recording = new RecordingFile(base.clone())
      const disk = openQcow2(recording)
      work(disk)
      disk.close()
      for (let length = 0; length <= recording.log.length; length += 1 + rng.below(clusterSize === 512 ? 40 : 6)) {
        const crashed = crashedFile(base, recording.log, length, rng)
        expect(checkQcow2(crashed.clone({ readOnly: true })).corruptions).toBe(0)
        withImage(crashed, (image) => image.pwrite(filled(150_000, 9), 800_000))
        expect(Buffer.from(crashed.toBytes()).includes(Buffer.from(bytes)), `after ${length} changes`).toBe(true)
        expect(checkQcow2(crashed.clone({ readOnly: true })).corruptions).toBe(0)
      }
    })
  }

  it("are where they would be without the failure once the failed call is repeated", () => {
    const base = imageWith(bytes, 4096)
    for (let at = 1, failures = 1; failures > 0; at += 3) {
      const file = base.clone()
      const failing = new FailingFile(file.clone(), { at, code: "io", calls: ["read", "write", "sync", "truncate"], duration: "once" })
      const result = new MemoryFile()
      const held = Object.assign(failing, { close: () => undefined })
      const disk = openAgain(held)
      for (const [, step] of works.slice(0, 8)) again(() => step(disk))
      closeAgain(disk)
      failures = failing.failures
      const content = new Uint8Array(failing.size())
      failing.plan = undefined
      failing.read(content, 0)
      result.write(content, 0)
      if (failures === 0) expectTrailer(result, bytes)
      expect(Buffer.from(content).includes(Buffer.from(bytes)), `failure ${at}`).toBe(true)
      expect(checkQcow2(result).corruptions).toBe(0)
    }
  })
})

function again<T>(work: () => T): T {
  try {
    return work()
  } catch {
    return work()
  }
}

const openAgain = (file: FailingFile): Qcow2Image => again(() => openQcow2(file))

/** Closing gives everything up after an error: what it says is enough. */
function closeAgain(disk: Qcow2Image): void {
  try {
    disk.close()
  } catch {
    // The trailer is where it was.
  }
}
