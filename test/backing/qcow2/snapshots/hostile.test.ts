/** Snapshots of images that lie: what cannot be is refused, and what is named again and again is not done again and again. */
import { describe, expect, it } from "vitest"
import { openQcow2 } from "../../../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import type { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"
import { contentOf, COPIED, failureOf, fileOf, filled, newImage, withImage } from "../small-images.ts"

/** Byte of the first snapshot's entry where its disk's size is. */
const DISK_SIZE = 48

function withSnapshot(clusterSize: number): Qcow2Bytes {
  return withImage(newImage({ clusterSize, size: 65536 }), (image) => {
    image.pwrite(filled(65536, 7), 0)
    image.snapshots.create({ name: "one" })
    image.pwrite(filled(4096, 8), 0)
  })
}

describe("a snapshot of a disk that is too large", () => {
  for (const [clusterSize, size] of [[512, 2n ** 37n + 512n], [512, 2n ** 52n], [512, 2n ** 63n], [65536, 2n ** 52n]] as const) {
    it(`QC-SNAP-03 QC-LIM-05 of ${size} bytes, with clusters of ${clusterSize}, is neither read nor applied, but can be deleted`, () => {
      const bytes = withSnapshot(clusterSize)
      bytes.setU64(bytes.snapshotsOffset + DISK_SIZE, size)
      const file = fileOf(bytes)
      expect(failureOf(() => openQcow2(file.clone(), { snapshot: "one" }))).toMatchObject({ code: "corrupt" })
      const image = openQcow2(file)
      const before = contentOf(image)
      for (const work of [
        () => image.snapshots.open("one"),
        () => image.snapshots.apply("one"),
        () => image.snapshots.openVmState("one"),
      ]) {
        const { code, message } = failureOf(work)
        expect(code).toBe("corrupt")
        expect(message).toMatch(/snapshot "one" cannot be read: its disk of \d+ bytes is too large for clusters of \d+ bytes/)
      }
      expect(Buffer.compare(contentOf(image), before)).toBe(0)
      image.snapshots.delete("one")
      image.close()
      expect(checkQcow2(file.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
    })
  }
})

describe("an L2 table that many entries of the L1 table name", () => {
  const TIMES = 500

  /** An image of `TIMES` L2 tables, all of which are the first one, with refcounts that say so, and COPIED flags that do not. */
  function repeated(): Qcow2Bytes {
    const bytes = withImage(newImage({ clusterSize: 512, size: TIMES * 32768 }), (image) => image.pwrite(filled(1024, 5), 0))
    const table = bytes.u64(bytes.l1Offset) & ~COPIED
    for (const byte of [Number(table), bytes.hostOffset(0), bytes.hostOffset(512)]) bytes.setRefcount(byte / 512, BigInt(TIMES))
    for (let index = 0; index < TIMES; index++) bytes.setU64(bytes.l1Offset + index * 8, table)
    return bytes
  }

  it("QC-LIM-05 such a table is copied once when a snapshot is taken, applied or deleted: the file grows by one table", () => {
    const file = fileOf(repeated())
    const size = file.size()
    const image = openQcow2(file)
    const before = contentOf(image, 32768, 2048)
    expect(before[1023]).toBe(5)
    image.snapshots.create({ name: "one" })
    image.snapshots.apply("one")
    image.pwrite(filled(512, 6), 32768)
    expect(Buffer.compare(contentOf(image, 32768 * 2, 2048), before)).toBe(0)
    image.snapshots.apply("one")
    expect(Buffer.compare(contentOf(image, 32768, 2048), before)).toBe(0)
    image.snapshots.delete("one")
    expect(Buffer.compare(contentOf(image, 32768 * 5, 2048), before)).toBe(0)
    image.close()
    // Some L1 tables of 4 KB, and little besides: there are 500 tables of 512 bytes.
    expect(file.clone().size()).toBeLessThan(size + 128 * 512)
  })
})
