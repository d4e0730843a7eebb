/** Our map of an image against `qemu-img map`, over the golden images. */
import { describe, expect } from "vitest"
import { openImage } from "../../src/backing/open.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { goldenImages, goldenPath } from "../support/golden.ts"
import { itWithQemu, qemuImg } from "../support/qemu.ts"

interface QemuExtent {
  readonly start: number
  readonly length: number
  readonly depth: number
  readonly zero: boolean
  readonly data: boolean
  readonly offset?: number
}

/** For each sector: what it is, and where if it is data. */
type SectorMap = string[]

function fill(map: SectorMap, start: number, length: number, describe: (at: number) => string): void {
  for (let at = start; at < start + length; at += 512) map[at / 512] = describe(at)
}

/** What QEMU says, in our words. It leaves out where compressed clusters are. */
function theirMap(file: string): SectorMap {
  const map: SectorMap = []
  const extents: QemuExtent[] = JSON.parse(qemuImg("map", "-f", "qcow2", "--output=json", goldenPath(file)))
  for (const { start, length, depth, zero, data, offset } of extents) {
    fill(map, start, length, (at) => {
      if (data && depth === 0) return offset === undefined ? "compressed" : `data at ${offset + at - start}`
      return depth === 0 && zero ? "zero" : "backing"
    })
  }
  return map
}

function ourMap(file: string): SectorMap {
  const disk = openImage(goldenPath(file), { readOnly: true })
  if (!(disk instanceof Qcow2Image)) throw new Error("not a qcow2 image")
  const map: SectorMap = []
  for (const { offset, length, kind, hostOffset } of disk.map(0, disk.size)) {
    fill(map, offset, length, (at) => (kind === "data" ? `data at ${(hostOffset ?? 0) + at - offset}` : kind))
  }
  disk.close()
  return map
}

describe("map", () => {
  for (const { file } of goldenImages.filter((golden) => !/data-file/.test(golden.file))) {
    itWithQemu(`QC-L1-01 QC-L2-02 our map of ${file} says what qemu-img map says`, () => {
      // Nothing below and nothing here is "zero" to QEMU at depth 0, and "backing" to us: both read as zeroes.
      const ours = ourMap(file)
      const theirs = theirMap(file).map((theirWord, sector) => (theirWord === "zero" && ours[sector] === "backing" ? "backing" : theirWord))
      expect(ours).toEqual(theirs)
    })
  }
})
