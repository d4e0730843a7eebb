/** checkImage against what QEMU said of the golden images, and against images with one thing wrong. */
import { describe, expect, it } from "vitest"
import { checkImage } from "../../../src/backing/qcow2/check.ts"
import { goldenBytes, goldenImages } from "../../support/golden.ts"
import { MemoryFile } from "../../support/memory-file.ts"

describe("golden images", () => {
  for (const golden of goldenImages) {
    it(`QC-CHK-01 counts ${golden.file} (${golden.about}) as qemu-img check does`, () => {
      const file = MemoryFile.of(goldenBytes(golden.file), { readOnly: true })
      if (golden.file.startsWith("extended-l2") || golden.file.startsWith("data-file")) {
        expect(() => checkImage(file)).toThrow(/cannot check an image with incompatible feature bit/)
        return
      }
      const expected = (name: string): number => Number(golden.check[name] ?? 0)
      expect(checkImage(file)).toMatchObject({
        corruptions: expected("corruptions"),
        leaks: expected("leaks"),
        imageEndOffset: expected("image-end-offset"),
        totalClusters: expected("total-clusters"),
        allocatedClusters: expected("allocated-clusters"),
        fragmentedClusters: expected("fragmented-clusters"),
        compressedClusters: expected("compressed-clusters"),
      })
    })
  }
})
