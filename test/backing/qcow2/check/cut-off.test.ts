/** Repairs of images whose file has been cut short: what still refers to the part that is gone must not get to see something else there. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../../../src/backing/qcow2/check/repair.ts"
import type { Qcow2Image } from "../../../../src/backing/qcow2/image.ts"
import { goldenBytes, goldenImages } from "../../../support/golden.ts"
import { openGolden } from "../../../support/images.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"

const seed = seedFromEnvironment(6006)
const SECTOR = 512
const CUTS = 12

/** The disk, and its first snapshot: each sector, or undefined where it cannot be read. */
function sectorsOf(name: string, file: MemoryFile): (string | undefined)[] {
  const image = openGolden(name, { file: file.clone(), readOnly: true })
  const [snapshot] = image.snapshots.list()
  return [...readSectors(image), ...(snapshot === undefined ? [] : readSectors(image.snapshots.open(snapshot.id)))]
}

function readSectors(disk: Pick<Qcow2Image, "size" | "pread">): (string | undefined)[] {
  return Array.from({ length: Math.floor(disk.size / SECTOR) }, (_, sector) => {
    const buffer = Buffer.alloc(SECTOR)
    try {
      disk.pread(buffer, sector * SECTOR)
    } catch (error) {
      if (!(error instanceof BackingError)) throw error
      return undefined
    }
    return buffer.toString("latin1")
  })
}

describe(`truncated files, seed ${seed}`, () => {
  for (const { file: name } of goldenImages.filter(({ size }) => size <= 1 << 20)) {
    it(`QC-CHK-07 QC-L2-09 ${name}: no repair puts a structure where the disk or a snapshot expects data`, () => {
      const rng = new Rng(seed)
      for (let round = 0; round < CUTS; round++) {
        const image = new Qcow2Bytes(goldenBytes(name))
        const clusters = rng.between(Math.floor(image.clusters / 3), image.clusters - 1)
        // The refcounts are gone, or the snapshot table has an entry of zeroes: the repair writes either anew.
        if (image.snapshotCount > 0 && rng.chance(0.5)) image.setU32(60, image.snapshotCount + 1)
        else image.setU64(image.refcountTableOffset, 0n)
        const file = MemoryFile.of(image.bytes.subarray(0, clusters * image.clusterSize))
        let before: (string | undefined)[]
        try {
          before = sectorsOf(name, file)
        } catch (error) {
          if (error instanceof BackingError) continue
          throw error
        }
        repairQcow2(file, "all")
        const after = sectorsOf(name, file)
        for (const [sector, content] of before.entries()) {
          if (content !== undefined) expect(after[sector] === content, `cut to ${clusters} clusters: sector ${sector}`).toBe(true)
        }
      }
    })
  }

  it("QC-CHK-05 QC-CHK-07 a repair does not free the clusters of a table that is cut off in the middle", () => {
    const image = new Qcow2Bytes(goldenBytes("v3-512.qcow2"))
    const at = image.grow(4)
    const old = image.bytes.subarray(image.l1Offset, image.l1Offset + 8 * image.l1Size)
    image.bytes.set(old, at)
    image.setU64(40, BigInt(at)).setU32(36, 200)
    const first = at / image.clusterSize
    for (let cluster = 0; cluster < 4; cluster++) image.setRefcount(first + cluster, 1n)
    const file = MemoryFile.of(image.bytes.subarray(0, at + image.clusterSize))
    expect(checkQcow2(file).findings.filter(({ kind, offset }) => kind === "leak" && offset === at)).toEqual([])
    repairQcow2(file, "leaks")
    expect(new Qcow2Bytes(file.toBytes()).refcount(first)).toBe(1n)
  })
})
