/** Images that QEMU made, read by us: every byte as QEMU reads it, without a tool of QEMU's at hand. */
import { describe, expect, it } from "vitest"
import { goldenBytes, goldenImages, sha256 } from "../../support/golden.ts"
import { openGolden, snapshotAsActive } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng } from "../../support/rng.ts"

describe("golden images", () => {
  for (const golden of goldenImages) {
    it(`QC-HDR-02 QC-L2-02 QC-BF-01 QC-CMP-09 reads ${golden.file} (${golden.about}) as QEMU does`, () => {
      const file = MemoryFile.of(goldenBytes(golden.file), { path: golden.file, readOnly: true })
      const disk = openGolden(golden.file, { readOnly: true, file })
      const content = new Uint8Array(disk.size)
      disk.pread(content, 0)
      // QEMU counts whole sectors only; the golden sizes are multiples of a sector.
      expect({ size: disk.size, sha256: sha256(content) }).toEqual({ size: golden.size, sha256: golden.sha256 })

      const rng = new Rng(golden.size)
      for (let round = 0; round < 200; round++) {
        const offset = rng.below(disk.size)
        const part = new Uint8Array(1 + rng.below(Math.min(20_000, disk.size - offset))).fill(0xcc)
        const first = part.subarray(0, Math.ceil(part.length / 3))
        disk.preadv(first.length < part.length ? [first, part.subarray(first.length)] : [part], offset)
        expect(Buffer.compare(part, content.subarray(offset, offset + part.length))).toBe(0)
      }
      disk.close()
      expect(file.changes, "a read-only opening writes nothing").toBe(0)
    })

    for (const [index, snapshot] of golden.snapshots.entries()) {
      it(`QC-SNAP-01 reads snapshot "${snapshot.name}" of ${golden.file} as QEMU does`, () => {
        const disk = openGolden(golden.file, {
          readOnly: true,
          file: MemoryFile.of(snapshotAsActive(goldenBytes(golden.file), index), { readOnly: true }),
        })
        const content = new Uint8Array(disk.size)
        disk.pread(content, 0)
        expect(sha256(content)).toBe(snapshot.sha256)
      })

      it(`QC-SNAP-06 QC-L1-04 QC-L2-06 snapshot "${snapshot.name}" of ${golden.file} is the same after the disk was overwritten`, () => {
        const file = MemoryFile.of(goldenBytes(golden.file))
        const disk = openGolden(golden.file, { file })
        disk.pwrite(new Rng(index).bytes(disk.size), 0)
        disk.close()
        const before = openGolden(golden.file, {
          readOnly: true, file: MemoryFile.of(snapshotAsActive(file.toBytes(), index), { readOnly: true }),
        })
        const content = new Uint8Array(before.size)
        before.pread(content, 0)
        expect(sha256(content)).toBe(snapshot.sha256)
      })
    }
  }
})
