/** Options that QEMU and we change in turn. */
import { join } from "node:path"
import { expect } from "vitest"
import { createImage } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { amendImage } from "../../src/backing/operations/amend-image.ts"
import { modelOf } from "../support/images.ts"
import { itWithQemu, qemuCheck, qemuImg } from "../support/qemu.ts"
import { Rng } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

itWithQemu("QC-HDR-03 QC-REF-03 QEMU accepts and amends images that we amended, and we do the same with its images", () => {
  const path = join(temporaryDirectory(), "disk.qcow2")
  createImage(path, { size: 1 << 20, clusterSize: 4096 })
  const image = openImage(path)
  image.pwrite(new Rng(3).bytes(300_000), 5000)
  image.writeZeroes?.(40_000, 60_000, false)
  const model = modelOf(image)
  image.close()
  for (const theirs of ["compat=0.10", "refcount_bits=64", "lazy_refcounts=on"]) {
    qemuImg("amend", "-f", "qcow2", "-o", theirs, path)
    for (const ours of [{ compat: "1.1", refcountBits: 8 }, { compat: "0.10", refcountBits: 16 }, { compat: "1.1" }] as const) {
      amendImage(path, ours)
      expect(qemuCheck(path), JSON.stringify(ours)).toMatchObject({ exitCode: 0 })
    }
    const after = openImage(path, { readOnly: true })
    expect(model.firstDifferenceOf(after)).toBe(-1)
    after.close()
  }
})
