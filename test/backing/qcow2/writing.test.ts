/** Writing qcow2 images: allocation, copying, order of writes, full images. */
import { describe, expect, it } from "vitest"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { goldenBytes } from "../../support/golden.ts"
import { openGolden, snapshotAsActive } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { type FileChange, RecordingFile } from "../../support/recording-file.ts"
import { contentOf, COPIED, failureOf, fileOf, filled, isZero, newImage, newOverlay, withImage, ZERO } from "./small-images.ts"

const CLUSTER = 65536

const writes = (log: readonly FileChange[]) => log.filter((change) => change.kind === "write")

describe("written bytes", () => {
  it("a write to an allocated cluster goes in place, and changes no metadata", () => {
    const before = withImage(newImage(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    const file = new RecordingFile(fileOf(before))
    const disk = openQcow2(file)
    disk.pwrite(filled(512, 9), 1024)
    disk.flush()
    expect(file.log).toEqual([{ kind: "write", offset: before.hostOffset(0) + 1024, data: filled(512, 9) }, { kind: "sync" }])
  })

  it("a write of 256 KiB to new clusters is one write to the file, and no sync", () => {
    const file = new RecordingFile(newImage())
    const disk = openQcow2(file)
    disk.pwritev([filled(100_000, 1), filled(4 * CLUSTER - 100_000, 2)], 0)
    expect(writes(file.log).map((change) => change.data.length)).toEqual([100_000, 4 * CLUSTER - 100_000])
    expect(file.log.some((change) => change.kind === "sync")).toBe(false)
  })

  it("4 KiB into a new cluster at the end of the file write 4 KiB; the rest is a hole, and reads as zeroes", () => {
    const file = new RecordingFile(newImage())
    const disk = openQcow2(file)
    disk.pwrite(filled(4096, 7), 8192)
    expect(writes(file.log).map((change) => change.data.length)).toEqual([4096])
    expect(isZero(contentOf(disk, 0, 8192))).toBe(true)
    expect(isZero(contentOf(disk, 12_288, CLUSTER - 12_288))).toBe(true)
  })

  it("seed defect 20: a cluster that is overwritten whole is not read from the backing image first", () => {
    const { file } = newOverlay(filled(1 << 20, 5))
    const unread = {
      size: 1 << 20,
      pread: () => {
        throw new Error("read")
      },
      preadv: () => {
        throw new Error("read")
      },
      close: () => {},
    }
    openQcow2(file, { openBacking: () => unread }).pwrite(filled(3 * CLUSTER, 9), CLUSTER)
  })

  it("seed defect 14: each cluster of one write is filled from its own source", () => {
    const { file, openBacking } = newOverlay(filled(1 << 20, 5))
    withImage(file, (disk) => disk.pwrite(filled(CLUSTER, 6), CLUSTER), { openBacking })
    const disk = openQcow2(file, { openBacking })
    disk.pwrite(filled(2 * CLUSTER, 9), CLUSTER / 2)
    expect(contentOf(disk, 0, CLUSTER / 2)).toEqual(filled(CLUSTER / 2, 5))
    expect(contentOf(disk, CLUSTER / 2, 2 * CLUSTER)).toEqual(filled(2 * CLUSTER, 9))
    expect(contentOf(disk, 2.5 * CLUSTER, CLUSTER / 2)).toEqual(filled(CLUSTER / 2, 5))
  })

  it("QC-L2-03 a partial write to a zero cluster with a place zeroes the stale rest", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    const place = image.hostOffset(0)
    const after = withImage(fileOf(image.setL2(0, image.l2(0) | ZERO)), (disk) => disk.pwrite(filled(512, 9), 512))
    expect(after.l2(0)).toBe(COPIED | BigInt(place))
    const cluster = after.bytes.subarray(place, place + CLUSTER)
    expect(isZero(cluster.subarray(0, 512))).toBe(true)
    expect(cluster.subarray(512, 1024)).toEqual(filled(512, 9))
    expect(isZero(cluster.subarray(1024))).toBe(true)
  })

  it("QC-L2-06 QC-L1-04 QC-SNAP-06 a shared cluster and its shared table are copied, and the snapshot keeps its content", () => {
    for (const name of ["snapshots.qcow2", "snapshots-v2.qcow2", "snapshots-zlib.qcow2"]) {
      const before = goldenBytes(name)
      const snapshot = contentOf(openQcow2(MemoryFile.of(snapshotAsActive(before, 0), { readOnly: true })))
      const file = MemoryFile.of(before)
      const disk = openGolden(name, { file })
      const model = contentOf(disk)
      for (let offset = 300; offset + 700 < disk.size; offset += 5000) {
        disk.pwrite(filled(700, 9), offset)
        model.fill(9, offset, offset + 700)
      }
      disk.close()
      const after = file.toBytes()
      expect(Buffer.compare(contentOf(openQcow2(MemoryFile.of(after, { readOnly: true }))), model), name).toBe(0)
      expect(Buffer.compare(contentOf(openQcow2(MemoryFile.of(snapshotAsActive(after, 0), { readOnly: true }))), snapshot), name).toBe(0)
      expect(checkQcow2(MemoryFile.of(after)).exitCode, name).toBe(0)
    }
  })

  it("QC-L1-04 a COPIED flag in a table that a snapshot shares is ignored", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    const place = image.hostOffset(0)
    const table = Number(image.u64(image.l1At(0)) & 0x00ff_ffff_ffff_fe00n)
    // As if a snapshot shared both, and somebody had forgotten to clear the entry's flag.
    image
      .setU64(image.l1At(0), BigInt(table))
      .setRefcount(table / CLUSTER, 2n)
      .setRefcount(place / CLUSTER, 2n)
    const after = withImage(fileOf(image), (disk) => disk.pwrite(filled(512, 9), 0))
    expect(after.bytes.subarray(place, place + CLUSTER)).toEqual(filled(CLUSTER, 7))
    expect([after.refcount(table / CLUSTER), after.refcount(place / CLUSTER)]).toEqual([1n, 1n])
    expect(contentOf(openQcow2(fileOf(after)), 0, 1024)).toEqual(Uint8Array.from([...filled(512, 9), ...filled(512, 7)]))
  })

  it("QC-L1-01 writes cross the borders of clusters and of L2 tables, with the smallest and the largest clusters", () => {
    for (const clusterSize of [512, 2 << 20]) {
      const coverage = clusterSize * (clusterSize / 8)
      const file = newImage({ size: 2 * coverage, clusterSize })
      const data = Uint8Array.from({ length: 3 * 512 }, (_, at) => at % 251)
      withImage(file, (disk) => {
        disk.pwrite(data, coverage - 700)
        disk.pwrite(filled(1, 3), 2 * coverage - 1)
      })
      const disk = openQcow2(file)
      expect(contentOf(disk, coverage - 700, data.length)).toEqual(data)
      expect(contentOf(disk, 2 * coverage - 2, 2)).toEqual(Uint8Array.of(0, 3))
      expect(checkQcow2(file).exitCode).toBe(0)
    }
  })

  it("seed defect 1: an image whose clusters lie beyond 4 GiB is written beyond 4 GiB", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    // The cluster moves to 8 GiB; the refcount block of that range does not exist, which only concerns a check.
    const far = 2 ** 33
    const file = fileOf(image.setL2(0, COPIED | BigInt(far)))
    file.write(filled(CLUSTER, 8), far)
    const disk = openQcow2(file)
    disk.pwrite(filled(512, 9), 512)
    expect(contentOf(disk, 0, 1536)).toEqual(Uint8Array.from([...filled(512, 8), ...filled(512, 9), ...filled(512, 8)]))
    disk.pwrite(filled(CLUSTER, 1), CLUSTER)
    disk.close()
    expect(file.toBytes === undefined).toBe(false)
  })
})

describe("allocation", () => {
  it("QC-REF-10 QC-WO-04 freed clusters are used again, in one session and the next, so the file does not grow", () => {
    for (const session of ["one", "many"]) {
      const file = newImage({ clusterSize: 4096 })
      const round = (
        disk: { pwrite(data: Uint8Array, offset: number): void; discard(offset: number, length: number): void; flush(): void }
      ): void => {
        disk.pwrite(filled(1 << 18, 7), 0)
        disk.discard(0, 1 << 18)
        disk.flush()
      }
      if (session === "one") {
        withImage(file, (disk) => {
          for (let step = 0; step < 10; step++) round(disk)
        })
      } else {
        for (let step = 0; step < 10; step++) withImage(file, round)
      }
      expect(file.size()).toBeLessThan(2 * (1 << 18))
      expect(checkQcow2(file).exitCode).toBe(0)
    }
  })

  it("without any flush the clusters that wait to be freed are bounded", () => {
    const file = newImage({ size: 64 << 20 })
    withImage(file, (disk) => {
      for (let step = 0; step < 40; step++) {
        disk.pwrite(filled(4 << 20, 7), 0)
        disk.discard(0, 4 << 20)
      }
    })
    expect(file.size()).toBeLessThan(40 << 20)
  })

  it.each([
    0, 1, 2, 3, 4, 5, 6,
  ])("QC-REF-05 QC-REF-06 QC-WO-06 refcount blocks and the table grow with the file, with refcounts of 2^%i bits", (order) => {
    const file = newImage({ size: 6 << 20, clusterSize: 512, refcountBits: 2 ** order })
    withImage(file, (disk) => {
      for (let offset = 0; offset < 6 << 20; offset += 65536) disk.pwrite(filled(65536, 7), offset)
    })
    const result = checkQcow2(file)
    expect([result.exitCode, result.findings]).toEqual([0, []])
    expect(result.allocatedClusters).toBe((6 << 20) / 512)
  })

  it("QC-WO-06 the refcount table moves by one write of 12 bytes", () => {
    const file = new RecordingFile(newImage({ size: 4 << 20, clusterSize: 512, refcountBits: 64 }))
    const disk = openQcow2(file)
    for (let offset = 0; offset < 4 << 20; offset += 65536) disk.pwrite(filled(65536, 7), offset)
    disk.close()
    const switches = writes(file.log).filter((change) => change.offset >= 48 && change.offset < 60)
    expect(switches.length).toBeGreaterThan(0)
    expect(switches.every((change) => change.offset === 48 && change.data.length === 12)).toBe(true)
  })

  it("QC-REF-09 QC-OVL-02 a header cluster that is free by its refcount is not allocated, and the image is marked corrupt", () => {
    const image = new Qcow2Bytes(newImage().toBytes()).setRefcount(0, 0n)
    const file = fileOf(image)
    const error = failureOf(() => openQcow2(file).pwrite(filled(512, 7), 0))
    expect([error.code, error.message]).toEqual(["corrupt", expect.stringContaining("the header")])
    expect(new Qcow2Bytes(file.toBytes()).incompatible).toBe(2n)
    expect(file.toBytes().subarray(0, 72)).toEqual(image.bytes.subarray(0, 72))
  })

  it("QC-REF-07 a refcount that would fall below 0 is corruption", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    const file = fileOf(new Qcow2Bytes(image.bytes).setRefcount(image.hostOffset(0) / CLUSTER, 0n))
    const disk = openQcow2(file)
    disk.discard(0, CLUSTER)
    disk.flush()
    expect(failureOf(() => disk.pwrite(filled(512, 1), 0)).code).toBe("corrupt")
    expect(new Qcow2Bytes(file.toBytes()).incompatible).toBe(2n)
  })

  it("QC-REF-08 a refcount block that is not aligned is corruption", () => {
    const image = new Qcow2Bytes(newImage().toBytes())
    const file = fileOf(image.setU64(image.refcountTableOffset, 0x2_0200n))
    expect(failureOf(() => openQcow2(file).pwrite(filled(512, 7), 0)).code).toBe("corrupt")
  })

  it("a refcount table that names one block twice is not written through", () => {
    const image = new Qcow2Bytes(newImage().toBytes())
    const file = fileOf(image.setU64(image.refcountTableOffset + 8, image.u64(image.refcountTableOffset)))
    expect(failureOf(() => openQcow2(file)).code).toBe("corrupt")
    expect(file.changes).toBe(0)
    openQcow2(fileOf(image, { readOnly: true })).close()
  })
})

describe("no guest data onto metadata", () => {
  const before = withImage(newImage(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
  const targets: readonly [string, number][] = [
    ["the header", 0],
    ["the refcount table", before.refcountTableOffset],
    ["a refcount block", before.refcountBlock(0)],
    ["the L1 table", before.l1Offset],
    ["an L2 table", Number(before.u64(before.l1At(0)) & 0x00ff_ffff_ffff_fe00n)],
  ]
  it.each(targets.slice(1))("QC-OVL-01 QC-OVL-02 QC-FEAT-10 seed defect 13: no write follows an L2 entry that names %s", (name, at) => {
    const file = fileOf(new Qcow2Bytes(before.bytes).setL2(0, COPIED | BigInt(at)))
    const original = file.toBytes()
    const disk = openQcow2(file)
    const error = failureOf(() => disk.pwrite(filled(512, 9), 512))
    expect([error.code, error.message]).toEqual(["corrupt", expect.stringContaining(name)])
    expect(failureOf(() => disk.pwrite(filled(512, 9), 2 * CLUSTER)).code).toBe("corrupt")
    expect(failureOf(() => disk.flush()).code).toBe("corrupt")
    const after = file.toBytes()
    expect(after.subarray(at + (at === 0 ? 80 : 0), at + CLUSTER)).toEqual(original.subarray(at + (at === 0 ? 80 : 0), at + CLUSTER))
    expect(new Qcow2Bytes(after).incompatible).toBe(2n)
    disk.close()
    expect(failureOf(() => openQcow2(MemoryFile.of(after))).code).toBe("corrupt")
    openQcow2(MemoryFile.of(after, { readOnly: true })).close()
  })

  it("QC-OVL-01 nothing is written through an L2 entry that names the snapshot table or a snapshot's L1 table", () => {
    const image = new Qcow2Bytes(goldenBytes("snapshots.qcow2"))
    const guest = 3 * image.clusterSize
    const ready = withImage(fileOf(image), (disk) => disk.pwrite(filled(512, 1), guest))
    for (const at of [ready.snapshotsOffset, Number(ready.u64(ready.snapshotsOffset))]) {
      const disk = openQcow2(fileOf(new Qcow2Bytes(ready.bytes).setL2(guest, COPIED | BigInt(at))))
      expect(failureOf(() => disk.pwrite(filled(512, 9), guest)).message).toContain("snapshot")
    }
  })

  it("QC-OVL-03 an L1 entry that names the L1 table can be read, and is not written through", () => {
    const image = new Qcow2Bytes(before.bytes)
    image.setU64(image.l1At(0), COPIED | BigInt(image.l1Offset))
    openQcow2(fileOf(image, { readOnly: true })).pread(new Uint8Array(512), 5 * CLUSTER)
    const file = fileOf(image)
    expect(failureOf(() => openQcow2(file).pwrite(filled(512, 9), 5 * CLUSTER)).code).toBe("corrupt")
    expect(
      file.toBytes().subarray(image.l1Offset, image.l1Offset + CLUSTER),
    ).toEqual(image.bytes.subarray(image.l1Offset, image.l1Offset + CLUSTER))
  })

  it("earlier writes are still stored after corruption is found", () => {
    const file = fileOf(new Qcow2Bytes(before.bytes).setL2(0, COPIED | BigInt(before.l1Offset)))
    const disk = openQcow2(file)
    disk.pwrite(filled(CLUSTER, 6), 4 * CLUSTER)
    failureOf(() => disk.pwrite(filled(512, 9), 0))
    expect(contentOf(disk, 4 * CLUSTER, CLUSTER)).toEqual(filled(CLUSTER, 6))
    disk.close()
    expect(contentOf(openQcow2(MemoryFile.of(file.toBytes(), { readOnly: true })), 4 * CLUSTER, CLUSTER)).toEqual(filled(CLUSTER, 6))
  })

  it("version 2, which has no corrupt bit, is not changed when corruption is found", () => {
    const image = withImage(newImage({ compat: "0.10" }), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    const file = fileOf(image.setL2(0, COPIED | BigInt(image.l1Offset)))
    const original = file.toBytes()
    expect(failureOf(() => openQcow2(file).pwrite(filled(512, 9), 0)).code).toBe("corrupt")
    expect(file.toBytes()).toEqual(original)
  })
})

describe("feature bits at opening and closing", () => {
  it("QC-FEAT-03 QC-BMP-03 autoclear bits are cleared by a writable opening and kept by a read-only one", () => {
    for (const readOnly of [true, false]) {
      const file = fileOf(new Qcow2Bytes(newImage().toBytes()).setU64(88, (1n << 9n) | 1n), { readOnly })
      openQcow2(file)
      expect(new Qcow2Bytes(file.toBytes()).autoclear).toBe(readOnly ? (1n << 9n) | 1n : 0n)
    }
    const bitmaps = MemoryFile.of(new Qcow2Bytes(goldenBytes("bitmap.qcow2")).setU64(88, (1n << 9n) | 1n).bytes)
    const extensions = goldenBytes("bitmap.qcow2").subarray(104, 1024)
    openQcow2(bitmaps)
    expect(new Qcow2Bytes(bitmaps.toBytes()).autoclear, "bitmaps are kept up").toBe(1n)
    expect(bitmaps.toBytes().subarray(104, 1024)).toEqual(extensions)
  })

  it("QC-FEAT-02 QC-FEAT-09 compatible bits stay, lazy refcounts among them, and the dirty bit is never set", () => {
    const file = new RecordingFile(fileOf(new Qcow2Bytes(newImage({ lazyRefcounts: true }).toBytes()).setU64(80, (1n << 17n) | 1n)))
    const disk = openQcow2(file)
    disk.pwrite(filled(512, 7), 0)
    disk.close()
    expect(writes(file.log).every((change) => change.offset > 104)).toBe(true)
  })

  it("a writable opening without a write changes no byte", () => {
    const file = newImage()
    const before = file.toBytes()
    withImage(file, (disk) => {
      disk.pread(new Uint8Array(512), 0)
      disk.flush()
      disk.discard(0, 1 << 20)
      disk.writeZeroes(0, 1 << 20, true)
    })
    expect(file.toBytes()).toEqual(before)
  })

  it("QC-FEAT-04 a dirty image that cannot be repaired is refused for writing, and read as it is", () => {
    // An L1 entry that cannot be followed: nothing can tell what it refers to.
    const image = new Qcow2Bytes(goldenBytes("dirty.qcow2"))
    image.setU64(image.l1At(0), COPIED | (1n << 55n))
    expect(failureOf(() => openQcow2(fileOf(image)))).toMatchObject({
      code: "corrupt", message: expect.stringContaining("could not be repaired"),
    })
    openQcow2(fileOf(image, { readOnly: true })).close()
  })

  it("a read-only file or image refuses writes", () => {
    const disk = openQcow2(newImage(), { readOnly: true })
    for (const work of [() => disk.pwrite(new Uint8Array(1), 0), () => disk.discard(0, 512), () => disk.writeZeroes(0, 512, true)]) {
      expect(failureOf(work).code).toBe("read-only")
    }
    expect(failureOf(() => openQcow2(newImage().clone({ readOnly: true }), { readOnly: false })).code).toBe("read-only")
  })
})

describe("order of writes", () => {
  it("QC-WO-01 QC-WO-03 QC-WO-07 data, refcounts and a new L2 table, then a sync, then the L1 entry, then a sync", () => {
    const inner = newImage()
    const layout = new Qcow2Bytes(inner.toBytes())
    const file = new RecordingFile(inner)
    const disk = openQcow2(file)
    disk.pwrite(filled(CLUSTER, 7), 0)
    disk.flush()
    const after = new Qcow2Bytes(inner.toBytes())
    const table = Number(after.u64(after.l1At(0)) & 0x00ff_ffff_ffff_fe00n)
    const place = (change: FileChange): string => {
      if (change.kind !== "write") return change.kind
      const at = Math.floor(change.offset / CLUSTER) * CLUSTER
      return at === table
        ? "L2"
        : at === after.hostOffset(0) ? "data" : at === layout.l1Offset ? "L1" : at === layout.refcountBlock(0) ? "refcounts" : `?${at}`
    }
    expect(file.log.map(place)).toEqual(["data", "refcounts", "L2", "sync", "L1", "sync"])
  })

  it("QC-WO-04 a discard: the L2 entry, a sync, then the refcount", () => {
    const inner = newImage()
    withImage(inner, (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    const layout = new Qcow2Bytes(inner.toBytes())
    const file = new RecordingFile(inner)
    const disk = openQcow2(file)
    disk.discard(0, CLUSTER)
    disk.flush()
    const table = Number(layout.u64(layout.l1At(0)) & 0x00ff_ffff_ffff_fe00n)
    expect(file.log.map((change) => (change.kind === "write" ? (change.offset === table ? "L2" : "refcounts") : change.kind))).toEqual([
      "sync",
      "L2",
      "sync",
      "refcounts",
    ])
  })

  it("a flush without metadata to store is one sync", () => {
    const inner = newImage()
    withImage(inner, (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    const file = new RecordingFile(inner)
    const disk = openQcow2(file)
    disk.pwrite(filled(CLUSTER, 8), 0)
    disk.flush()
    expect(file.log.map((change) => change.kind)).toEqual(["write", "sync"])
  })
})
