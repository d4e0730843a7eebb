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
import { withTable } from "./snapshot-tables.ts"

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

  it("QC-SNAP-03 QC-CHK-06 an end beyond the file keeps the snapshots that lie in it, and adds none", () => {
    for (const count of [3, 70_000, 0xffff_ffff]) {
      const image = new Qcow2Bytes(goldenBytes("snapshots.qcow2"))
      const before = openInMemory(MemoryFile.of(image.bytes, { readOnly: true })).snapshots.list()
      const { snapshotsOffset } = image
      const at = image.grow(1)
      const table = image.bytes.slice(snapshotsOffset, snapshotsOffset + image.clusterSize)
      let end = 0
      for (let entry = 0; entry < before.length; entry++) {
        const view = new DataView(table.buffer, end)
        end += Math.ceil((40 + view.getUint32(36) + view.getUint16(12) + view.getUint16(14)) / 8) * 8
      }
      image.bytes.set(table.subarray(0, end), at)
      image.setU32(60, count).setU64(64, BigInt(at)).setRefcount(at / image.clusterSize, 1n)
      const file = MemoryFile.of(image.bytes.subarray(0, at + end))
      expect(checkQcow2(file).findings.some(({ kind, message }) => kind === "snapshot" && /the file ends inside/.test(message))).toBe(true)
      expect(failureOf(() => openInMemory(file.clone())).code).toBe("invalid-format")
      expect(repairQcow2(file, "all")).toMatchObject({ corruptions: 0, leaks: 0 })
      expect(openInMemory(file.clone()).snapshots.list()).toEqual(before)
    }
  })

  itWithQemu("QC-SNAP-03 QC-CHK-06 each of these defects is mended by QEMU in the same way, which finds our result sound", () => {
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
