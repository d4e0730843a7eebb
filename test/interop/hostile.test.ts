/** Damaged images read by us and by QEMU: where both give data, it is the same data. */
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { describe, expect } from "vitest"
import { BackingError } from "../../src/backing/backing.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { goldenBytes, goldenImages } from "../support/golden.ts"
import { openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { allMutations } from "../support/mutations.ts"
import { itWithQemu } from "../support/qemu.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const seed = seedFromEnvironment(808)
const ROUNDS = Number(process.env["ROUNDS"] ?? 25)
const corpus = goldenImages.filter(
  ({ file }) => !/data-file|overlay/.test(file),
)

/** What QEMU reads, or undefined where it refuses. */
function readByQemu(path: string, raw: string): Uint8Array | undefined {
  rmSync(raw, { force: true })
  const result = spawnSync("qemu-img", ["convert", "-t", "unsafe", "-f", "qcow2", "-O", "raw", path, raw], {
    encoding: "utf8", timeout: 20_000,
  })
  return result.status === 0 && existsSync(raw) ? new Uint8Array(readFileSync(raw)) : undefined
}

/** Compares sector by sector; returns how many both could read. */
function compareSectors(disk: Qcow2Image, theirs: Uint8Array): number {
  let compared = 0
  for (let offset = 0; offset + 512 <= Math.min(disk.size, theirs.length); offset += 512) {
    const ours = new Uint8Array(512)
    try {
      disk.pread(ours, offset)
    } catch (error) {
      if (error instanceof BackingError) continue
      throw error
    }
    compared++
    if (Buffer.compare(ours, theirs.subarray(offset, offset + 512)) !== 0) throw new Error(`sector at ${offset} differs`)
  }
  return compared
}

describe(`damaged images, seed ${seed}`, () => {
  itWithQemu("QC-L2-02 QC-L2-09 QC-L1-02 QEMU and we read the same data from images that both accept", () => {
    const directory = temporaryDirectory()
    const path = join(directory, "damaged.qcow2")
    let compared = 0
    for (let round = 0; round < ROUNDS; round++) {
      const rng = new Rng(seed + round)
      const golden = rng.pick(corpus)
      const name = rng.pick(Object.keys(allMutations))
      const image = new Qcow2Bytes(goldenBytes(golden.file))
      allMutations[name]?.(image, rng)
      const file = MemoryFile.of(image.bytes, { readOnly: true })
      let disk: Qcow2Image
      try {
        disk = openInMemory(file)
      } catch (error) {
        if (error instanceof BackingError) continue
        throw error
      }
      if (disk.size > 1 << 24) continue
      file.save(path)
      const theirs = readByQemu(path, join(directory, "theirs.raw"))
      if (theirs === undefined) continue
      try {
        compared += compareSectors(disk, theirs)
      } catch (error) {
        if (error instanceof Error) error.message = `seed ${seed + round}, ${golden.file} after ${name}: ${error.message}`
        throw error
      }
    }
    expect(compared).toBeGreaterThan(1000)
  })
})
