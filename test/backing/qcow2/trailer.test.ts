/** Bytes that somebody has appended to the file of an image, as gondolin does, and looks for at its end. */
import { describe, expect, it } from "vitest"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { examine } from "../../../src/backing/qcow2/check/examination.ts"
import { changeRefcountWidth } from "../../../src/backing/qcow2/check/rebuild-refcounts.ts"
import { repairQcow2 } from "../../../src/backing/qcow2/check/repair.ts"
import { MOST_TRAILING } from "../../../src/backing/qcow2/format/trailing-bytes.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { contentOf, failureOf, filled, newImage, withImage } from "./small-images.ts"
import { append, expectTrailer, imageWith, SIZE, trailer, works } from "./trailers.ts"

describe("bytes behind the last cluster", () => {
  for (const [clusterSize, length] of [[512, 700], [4096, 8192], [65536, 300]] as const) {
    it(`QC-CHK-01 they stay at the end of the file, whatever changes (${length} bytes, clusters of ${clusterSize})`, () => {
      const bytes = trailer(length)
      for (const [, work] of works) {
        const file = imageWith(bytes, clusterSize)
        withImage(file, work)
        expectTrailer(file, bytes)
      }
    })
  }

  it("do not move when nothing is allocated", () => {
    const bytes = trailer(777)
    const file = imageWith(bytes, 4096)
    const before = file.toBytes()
    withImage(file, (disk) => disk.pwrite(filled(100_000, 0x11), 0))
    expect(Buffer.compare(file.toBytes(), before)).toBe(0)
  })

  it("stay at the end of a new image of QEMU, whose file ends inside a cluster", () => {
    const bytes = trailer(400)
    const file = newImage()
    // As QEMU leaves it: the L1 table is the last structure, and nothing pads it.
    const image = new Qcow2Bytes(file.toBytes())
    const l1 = image.l1Offset
    file.truncate(l1 + 8)
    expect(file.size() % 65536).toBe(8)
    append(file, bytes)
    for (let round = 1; round < 4; round++) {
      withImage(file, (disk) => disk.pwrite(filled(50_000, round), round * 100_000))
      expectTrailer(file, bytes)
    }
  })

  it("move to the new end when the disk shrinks", () => {
    const bytes = trailer(300)
    const file = newImage({ clusterSize: 4096, size: SIZE })
    withImage(file, (disk) => disk.pwrite(filled(SIZE, 1), 0))
    append(file, bytes)
    const { length } = file.toBytes()
    withImage(file, (disk) => {
      disk.resize(SIZE / 8, { shrink: true })
      disk.resize(SIZE / 16, { shrink: true })
    })
    expectTrailer(file, bytes)
    expect(file.size()).toBeLessThan(length / 4)
    expect(Buffer.compare(contentOf(openQcow2(file.clone())), filled(SIZE / 16, 1))).toBe(0)
  })

  it("QC-CHK-07 stay at the end when a repair builds new refcounts, or refcounts become wider", () => {
    const bytes = trailer(5000)
    const file = imageWith(bytes, 4096)
    const image = new Qcow2Bytes(file.toBytes())
    image.setU64(image.refcountTableOffset, 0n)
    const broken = MemoryFile.of(image.bytes)
    expect(repairQcow2(broken, "all")).toMatchObject({ corruptions: 0, leaks: 0 })
    expectTrailer(broken, bytes)
    changeRefcountWidth(examine(broken), 6)
    expectTrailer(broken, bytes)
    withImage(broken, (disk) => disk.pwrite(filled(50_000, 2), 900_000))
    expectTrailer(broken, bytes)
  })

  it("are kept up to 4 MiB, unless they are zeroes", () => {
    const file = imageWith(new Uint8Array(0), 65536)
    const { length } = file.toBytes()
    append(file, new Uint8Array(1 << 20))
    withImage(file, (disk) => disk.pwrite(filled(100_000, 1), 1 << 20))
    expect(file.size()).toBeLessThan(length + (1 << 20) + 65536)
    const bytes = trailer(MOST_TRAILING - 65536)
    append(file, bytes)
    withImage(file, (disk) => disk.pwrite(filled(1 << 20, 1), 2 << 20))
    expectTrailer(file, bytes)
  })

  it("are not assumed where refcounts are wrong, and metadata stays protected", () => {
    const file = newImage()
    withImage(file, (disk) => disk.pwrite(filled(10, 1), 0))
    const image = new Qcow2Bytes(file.toBytes())
    const block = Number(image.u64(image.refcountTableOffset))
    image.bytes.fill(0, block, block + 65536)
    const disk = openQcow2(MemoryFile.of(image.bytes))
    expect(failureOf(() => disk.pwrite(filled(10, 1), 700_000)).message).toMatch(/is free by its refcount but holds/)
  })
})
