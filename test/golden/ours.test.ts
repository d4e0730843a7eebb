/** Golden images with snapshots, bitmaps, LUKS, a raw data file, extended L2 entries, amended: read, and written over. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { checkImage } from "../../src/backing/check.ts"
import { openImage } from "../../src/backing/open.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { copyOurs, GOLDEN_PASSPHRASE, type OurGolden, ourGoldens } from "./ours.ts"
import { sha256 } from "../support/golden.ts"
import { Rng } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { contentOf } from "../backing/qcow2/small-images.ts"

function open(path: string, { isEncrypted }: OurGolden, readOnly: boolean): Qcow2Image {
  const disk = openImage(path, { readOnly, ...(isEncrypted ? { passphrase: GOLDEN_PASSPHRASE } : {}) })
  if (!(disk instanceof Qcow2Image)) throw new Error("not a qcow2 image")
  return disk
}

function snapshotsOf(disk: Qcow2Image): unknown {
  return disk.snapshots.list().map(({ id, name }) => {
    const view = disk.snapshots.open(id)
    const found = { name, size: view.size, sha256: sha256(contentOf(view)) }
    view.close()
    return found
  })
}

describe("golden images of each feature", () => {
  for (const golden of ourGoldens) {
    it(`QC-SNAP-01 QC-BMP-04 QC-DF-07 QC-EL2-03 QC-LUKS-04 ${golden.file} (${golden.about}) has the content that it was made with`, () => {
      const path = copyOurs(golden, temporaryDirectory())
      const before = readFileSync(path)
      const disk = open(path, golden, true)
      expect({ size: disk.size, sha256: sha256(contentOf(disk)) }).toEqual({ size: golden.size, sha256: golden.sha256 })
      expect(snapshotsOf(disk)).toEqual(golden.snapshots)
      const bitmaps = disk.bitmaps.list().map(({ name, granularity }) => ({ name, granularity, changed: [...disk.bitmaps.changed(name)] }))
      expect(bitmaps).toEqual(golden.bitmaps)
      disk.close()
      expect(checkImage(path).exitCode).toBe(0)
      expect(Buffer.compare(readFileSync(path), before), "nothing has been written").toBe(0)
      // Written over from end to end, its snapshots show the same.
      const again = open(path, golden, false)
      const content = new Rng(1).bytes(golden.size)
      again.pwrite(content, 0)
      expect(Buffer.compare(contentOf(again), content)).toBe(0)
      expect(snapshotsOf(again)).toEqual(golden.snapshots)
      again.close()
      expect(checkImage(path).exitCode).toBe(0)
    })
  }
})
