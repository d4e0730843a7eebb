/** Snapshot tables beyond the limits: reported by a check, refused at an opening, and mended as QEMU mends them. */
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../../../src/backing/qcow2/check/repair.ts"
import { goldenBytes } from "../../../support/golden.ts"
import { openInMemory } from "../../../support/images.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"
import { itWithQemu, qemuCheck, qemuImg } from "../../../support/qemu.ts"
import { temporaryDirectory } from "../../../support/temporary.ts"
import { failureOf } from "../small-images.ts"

/** The golden image with another table: `count` entries, the first with the L1 table of the image's first one, the others empty. */
function withTable(count: number, extraSize: number): Qcow2Bytes {
  const image = new Qcow2Bytes(goldenBytes("snapshots.qcow2"))
  const first = image.bytes.slice(image.snapshotsOffset, image.snapshotsOffset + 40)
  const step = Math.ceil((40 + extraSize + 1) / 8) * 8
  const clusters = Math.ceil((count * step) / image.clusterSize)
  const table = image.grow(clusters)
  for (let index = 0; index < count; index++) {
    const at = table + index * step
    if (index === 0) image.bytes.set(first, at)
    image.setU32(at + 36, extraSize).setU16(at + 12, 1).setU16(at + 14, 0).setU8(at + 40 + extraSize, 0x61 + (index % 26))
    if (extraSize >= 16) image.setU64(at + 48, BigInt(image.size))
  }
  for (let step = 0; step < clusters; step++) {
    if (image.refcountBlock(table / image.clusterSize + step) !== 0) image.setRefcount(table / image.clusterSize + step, 1n)
  }
  return image.setU32(60, count).setU64(64, BigInt(table))
}

const damages = [
  { name: "extra data that is shorter than version 3 requires", image: () => withTable(3, 8), left: 3, opens: true },
  { name: "no extra data", image: () => withTable(2, 0), left: 2, opens: true },
  { name: "extra data above 1024 bytes", image: () => withTable(3, 1040), left: 3, opens: false },
]

describe("a snapshot table with", () => {
  for (const { name, image, left, opens } of damages) {
    it(`QC-SNAP-02 QC-SNAP-03 QC-CHK-06 ${name} is mended by a repair of all`, () => {
      const file = MemoryFile.of(image().bytes, { path: "damaged.qcow2" })
      expect(checkQcow2(file).findings.some(({ kind }) => kind === "snapshot")).toBe(true)
      if (!opens) expect(failureOf(() => openInMemory(file.clone())).code).toBe("invalid-format")
      expect(repairQcow2(file, "all")).toMatchObject({ corruptions: 0, leaks: 0 })
      const disk = openInMemory(file.clone())
      expect(disk.snapshots.list().length).toBe(left)
      expect(disk.snapshots.list()[0]).toMatchObject({ id: "a", diskSize: disk.size })
    })
  }

  itWithQemu("QC-SNAP-03 QC-CHK-06 what QEMU mends alike, and finds sound when we have mended it", () => {
    for (const { image, left } of damages) {
      const theirs = join(temporaryDirectory(), "theirs.qcow2")
      const ours = join(temporaryDirectory(), "ours.qcow2")
      MemoryFile.of(image().bytes).save(theirs)
      const file = MemoryFile.of(image().bytes)
      repairQcow2(file, "all")
      file.save(ours)
      qemuCheck(theirs, "-r", "all")
      expect(qemuCheck(ours)).toMatchObject({ exitCode: 0 })
      const lines = (path: string): number => qemuImg("snapshot", "-l", path).trim().split("\n").length
      expect([lines(ours), lines(theirs)]).toEqual([left + 2, left + 2])
    }
  })
})
