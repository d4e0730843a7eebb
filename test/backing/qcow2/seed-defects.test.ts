/**
 * The defects of the first vmd qcow2 driver that concern reading and writing, each shown to be absent here. The numbers are those of the
 * list of 26.
 */
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import type { BackingDisk } from "../../../src/backing/qcow2/reader.ts"
import { FailingFile } from "../../support/failing-file.ts"
import { goldenBytes, goldenImages } from "../../support/golden.ts"
import { goldenBacking, modelOf, openGolden, openInMemory, snapshotAsActive } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { RecordingFile } from "../../support/recording-file.ts"
import { Rng } from "../../support/rng.ts"
import { makeShape } from "../../support/shapes.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const COPIED = 1n << 63n

function contentOf(
  disk: { readonly size: number; pread(buffer: Uint8Array, offset: number): void },
  offset = 0,
  length = disk.size - offset,
): Uint8Array {
  const content = new Uint8Array(length).fill(0xee)
  disk.pread(content, offset)
  return content
}

function isAll(bytes: Uint8Array, value: number): boolean {
  return bytes.every((byte) => byte === value)
}

describe("seed defects: reading and writing", () => {
  it("seed defect 1: QC-L2-05 clusters beyond 4 GiB are read and written at their offset, and the file does not shrink", () => {
    const file = new MemoryFile()
    createQcow2(file, { size: 6 * 2 ** 30, preallocation: "metadata" })
    const size = file.size()
    expect(size).toBeGreaterThan(6 * 2 ** 30)
    const disk = openInMemory(file)
    const data = new Rng(1).bytes(200_000)
    const places = [2 ** 32 - 100_000, 2 ** 32 + 65536 * 3 + 17, 6 * 2 ** 30 - data.length]
    for (const place of places) disk.pwrite(data, place)
    disk.close()
    expect(file.clone().size()).toBe(size)
    const again = openInMemory(file.clone({ readOnly: true }))
    for (const place of places) expect(Buffer.compare(contentOf(again, place, data.length), data)).toBe(0)
    expect(isAll(contentOf(again, 0, 1 << 20), 0)).toBe(true)
    expect(checkQcow2(file.clone())).toMatchObject({ exitCode: 0 })
    expect([...again.map(2 ** 32 + 65536, 512)][0]?.hostOffset).toBeGreaterThan(2 ** 32)
  })

  it("seed defect 4: QC-REF-03 QC-REF-07 writes keep every refcount width", () => {
    for (const bits of [1, 2, 4, 8, 32, 64]) {
      const file = MemoryFile.of(goldenBytes(`refcount-${bits}.qcow2`))
      const disk = openInMemory(file)
      disk.pwrite(new Rng(bits).bytes(disk.size), 0)
      disk.discard(0, 40_000)
      disk.close()
      expect(checkQcow2(file.clone()), `${bits} bits`).toMatchObject({ exitCode: 0 })
    }
  })

  it("seed defect 9: QC-HDR-08 a disk that ends inside a sector is neither read nor written beyond its end", () => {
    const image = new Qcow2Bytes(goldenBytes("v3-4k.qcow2")).setU64(24, 200n * 1024n + 100n)
    const disk = openInMemory(MemoryFile.of(image.bytes))
    expect(disk.size).toBe(200 * 1024 + 100)
    expect(() => disk.pread(new Uint8Array(101), 200 * 1024)).toThrow(BackingError)
    expect(() => disk.pwrite(new Uint8Array(512), 200 * 1024)).toThrow(BackingError)
  })

  it("seed defects 10 and 12: a table or a compressed cluster that cannot be read is an error, not zeroes", () => {
    for (const name of ["v3-4k.qcow2", "zlib-4k.qcow2"]) {
      const failing = new FailingFile(MemoryFile.of(goldenBytes(name), { readOnly: true }))
      const disk = openInMemory(failing)
      failing.plan = { at: 1, code: "io", calls: ["read"], duration: "for-good" }
      for (let round = 0; round < 3; round++) expect(() => disk.pread(new Uint8Array(512), 0)).toThrow(/injected/)
      failing.plan = undefined
      expect(isAll(contentOf(disk, 0, 512), 0), "and it is read once it can be").toBe(false)
    }
  })

  it("seed defect 10: QC-CMP-11 QC-CMP-06 a write into a compressed cluster keeps the rest; a broken stream is an error", () => {
    const disk = openGolden("zlib-4k.qcow2")
    const model = modelOf(disk)
    disk.pwrite(new Rng(1).bytes(100), 5000)
    model.write(new Rng(1).bytes(100), 5000)
    expect(model.firstDifferenceOf(disk)).toBe(-1)

    const image = new Qcow2Bytes(goldenBytes("zlib-4k.qcow2"))
    const start = Number(image.l2(0) & ((1n << 58n) - 1n))
    image.bytes.fill(0xff, start, start + 40)
    const broken = openInMemory(MemoryFile.of(image.bytes))
    expect(() => broken.pread(new Uint8Array(10), 100)).toThrow(/cannot be decompressed/)
    expect(() => broken.pwrite(new Uint8Array(10), 100)).toThrow(/cannot be decompressed/)
  })

  it("seed defect 11: QC-L2-03 QC-DZ-06 zero clusters read as zeroes, with a place or without, also around a write", () => {
    const disk = openGolden("zero.qcow2")
    const ranges = [[2048, 1024], [5120, 1024], [8192, 2048], [40 * 1024, 2048]] as const
    for (const [offset, length] of ranges) {
      expect(isAll(contentOf(disk, offset, length), 0)).toBe(true)
      disk.pwrite(new Uint8Array(100).fill(9), offset + 200)
      const content = contentOf(disk, offset, length)
      expect(isAll(content.subarray(0, 200), 0) && isAll(content.subarray(200, 300), 9) && isAll(content.subarray(300), 0)).toBe(true)
    }
  })

  it("seed defect 11: QC-L2-03 the stale bytes of a preallocated zero cluster never show", () => {
    const image = new Qcow2Bytes(goldenBytes("zero.qcow2"))
    const host = image.hostOffset(2048)
    expect([host > 0, image.l2(2048) & 1n]).toEqual([true, 1n])
    image.bytes.fill(0xdd, host, host + 512)
    const disk = openInMemory(MemoryFile.of(image.bytes))
    disk.pwrite(new Uint8Array(1).fill(5), 2048 + 77)
    const cluster = contentOf(disk, 2048, 512)
    expect([cluster[77], cluster.reduce((sum, byte) => sum + byte, 0)]).toEqual([5, 5])
  })

  it("seed defect 13: QC-OVL-01 QC-OVL-02 QC-FEAT-10 no guest write reaches metadata, whatever an L2 entry claims", () => {
    const golden = new Qcow2Bytes(goldenBytes("snapshots.qcow2"))
    const targets: Readonly<Record<string, number>> = {
      "the refcount table": golden.refcountTableOffset,
      "a refcount block": golden.refcountBlock(0),
      "the L1 table": golden.l1Offset,
      "an L2 table": Number(golden.u64(golden.l1At(0)) & 0x00ff_ffff_ffff_fe00n),
      "the snapshot table": golden.snapshotsOffset,
      "a snapshot's L1 table": Number(golden.u64(golden.snapshotsOffset)),
    }
    for (const [name, target] of Object.entries(targets)) {
      // An allocated and an unallocated cluster, in a table that no snapshot shares.
      for (const guest of [0, 24 * 1024]) {
        const image = new Qcow2Bytes(golden.bytes).setL2(guest, BigInt(target) | COPIED)
        const before = image.bytes.slice(target, target + 512)
        const file = MemoryFile.of(image.bytes)
        const disk = openInMemory(file)
        expect(() => disk.pwrite(new Uint8Array(512).fill(0x66), guest), name).toThrow(BackingError)
        // A second try, and one elsewhere: the image is not written any more.
        expect(() => disk.pwrite(new Uint8Array(512).fill(0x66), guest), name).toThrow(BackingError)
        const after = new Qcow2Bytes(file.toBytes())
        expect(Buffer.compare(after.bytes.subarray(target, target + 512), before), name).toBe(0)
        expect(after.incompatible & 2n, `${name}: marked corrupt`).toBe(2n)
      }
    }
  })

  it("seed defect 13: QC-L1-03 QC-L2-05 unaligned tables and clusters are errors, not addresses", () => {
    const unaligned = [
      new Qcow2Bytes(goldenBytes("v3-4k.qcow2")).setL2(0, 20992n | COPIED),
      new Qcow2Bytes(goldenBytes("v3-4k.qcow2")).setU64(new Qcow2Bytes(goldenBytes("v3-4k.qcow2")).l1Offset, 16896n | COPIED),
    ]
    for (const image of unaligned) {
      const file = MemoryFile.of(image.bytes)
      const disk = openInMemory(file)
      for (const work of [() => disk.pread(new Uint8Array(512), 0), () => disk.pwrite(new Uint8Array(512), 0)]) {
        expect(work).toThrow(/multiple of the cluster size/)
      }
    }
  })

  it("seed defect 14: QC-BF-05 one write over clusters of which some are in the overlay and some below keeps the rest of each", () => {
    const base = new Rng(5).bytes(65536)
    const file = new MemoryFile()
    createQcow2(file, { size: 65536, clusterSize: 4096, backing: "base", backingFormat: "raw" })
    const disk = openInMemory(file, { openBacking: () => new RawBacking(MemoryFile.of(base, { readOnly: true })) })
    const model = modelOf(disk)
    const write = (data: Uint8Array, offset: number): void => {
      disk.pwrite(data, offset)
      model.write(data, offset)
    }
    write(new Rng(6).bytes(100), 8192 + 50)
    write(new Rng(7).bytes(100), 16384 + 50)
    write(new Rng(8).bytes(15_000), 4096 + 700)
    write(new Rng(9).bytes(30_000), 20_001)
    expect(model.firstDifferenceOf(disk)).toBe(-1)
  })

  it("seed defect 15: QC-REF-09 QC-REF-10 clusters are allocated by refcount, freed ones again and cluster 0 never", () => {
    const noHeader = MemoryFile.of(new Qcow2Bytes(goldenBytes("v3-4k.qcow2")).setRefcount(0, 0n).bytes)
    const header = noHeader.toBytes().slice(0, 112)
    let disk = openInMemory(noHeader)
    try {
      disk.pwrite(new Rng(1).bytes(100_000), 100_000)
      disk.close()
    } catch (error) {
      expect(error).toBeInstanceOf(BackingError)
    }
    // The corrupt bit may be set; nothing else of the header may change.
    const after = noHeader.toBytes().slice(0, 112)
    after[79] = 0
    expect(Buffer.compare(after, header)).toBe(0)

    const { file } = makeShape({ name: "", options: { clusterSize: 512 } }, 1 << 20)
    disk = openInMemory(file)
    const sizes: number[] = []
    for (let round = 0; round < 12; round++) {
      disk.pwrite(new Rng(round).bytes(200_000), 1000 * round)
      disk.flush()
      disk.discard(0, 1 << 20)
      disk.flush()
      sizes.push(file.size())
    }
    disk.close()
    expect(Math.max(...sizes)).toBeLessThan(1.3 * (sizes[0] ?? 0) + 500_000)
    expect(sizes[11]).toBe(sizes[5])
    expect(checkQcow2(file.clone())).toMatchObject({ exitCode: 0 })
  })

  it("seed defect 15: filling a disk leaves no gap in the file", () => {
    const { file } = makeShape({ name: "", options: { clusterSize: 512 } }, 256 << 10)
    const disk = openInMemory(file)
    for (let at = 0; at < disk.size; at += 3000) disk.pwrite(new Rng(at).bytes(Math.min(3000, disk.size - at)), at)
    disk.close()
    const image = new Qcow2Bytes(file.toBytes())
    const unused = Array.from({ length: image.clusters }, (_, cluster) => image.refcount(cluster)).filter((refcount) => refcount === 0n)
    expect(unused.length).toBe(0)
    expect(checkQcow2(file.clone())).toMatchObject({ exitCode: 0, fragmentedClusters: expect.any(Number), allocatedClusters: 512 })
  })

  it("seed defect 16: QC-REF-05 QC-REF-06 refcount blocks count themselves, and the refcount table grows", () => {
    const { file } = makeShape({ name: "", options: { clusterSize: 512, refcountBits: 64 } }, 6 << 20)
    const before = new Qcow2Bytes(file.toBytes())
    const disk = openInMemory(file)
    const data = new Rng(2).bytes(5 << 20)
    for (let at = 0; at < data.length; at += 70_000) disk.pwrite(data.subarray(at, at + 70_000), at)
    disk.close()
    const after = new Qcow2Bytes(file.toBytes())
    expect(after.refcountTableClusters).toBeGreaterThan(before.refcountTableClusters)
    expect(checkQcow2(file.clone())).toMatchObject({ exitCode: 0 })
    expect(Buffer.compare(contentOf(openInMemory(file.clone({ readOnly: true })), 0, data.length), data)).toBe(0)
  })

  it("seed defect 17: QC-WO-01 QC-WO-07 refcounts and data are synced before the entry that refers to them is written", () => {
    const golden = new Qcow2Bytes(goldenBytes("v3-4k.qcow2"))
    const recorder = new RecordingFile(MemoryFile.of(golden.bytes))
    const disk = openInMemory(recorder)
    disk.pwrite(new Uint8Array(4096).fill(0x77), 100 * 1024)
    disk.flush()
    const block = golden.refcountBlock(0)
    const table = Number(golden.u64(golden.l1At(0)) & 0x00ff_ffff_ffff_fe00n)
    const written = (from: number): number => recorder.log.findIndex(
      (change) => change.kind === "write" && change.offset >= from && change.offset < from + 4096,
    )
    const data = recorder.log.findIndex((change) => change.kind === "write" && change.data[0] === 0x77)
    const firstSync = recorder.log.findIndex((change) => change.kind === "sync")
    expect(data).toBeGreaterThanOrEqual(0)
    expect(Math.max(data, written(block))).toBeLessThan(firstSync)
    expect(written(table)).toBeGreaterThan(firstSync)
    expect(recorder.log.at(-1)?.kind, "the flush ends with a sync").toBe("sync")
  })

  it("seed defect 18: QC-L2-11 a new table that could not be stored is stored later, and no acknowledged write is lost", () => {
    for (let at = 1; at < 12; at++) {
      const { file } = makeShape({ name: "", options: { clusterSize: 512 } }, 1 << 20)
      const failing = new FailingFile(file)
      const disk = openInMemory(failing)
      disk.pwrite(new Rng(1).bytes(2000), 0)
      failing.plan = { at, code: "io", calls: ["write", "sync"], duration: "once" }
      try {
        disk.flush()
      } catch (error) {
        expect(error).toBeInstanceOf(BackingError)
      }
      failing.plan = undefined
      disk.pwrite(new Rng(2).bytes(2000), 500_000)
      disk.flush()
      const crashed = openInMemory(file.clone({ readOnly: true }))
      expect(Buffer.compare(contentOf(crashed, 0, 2000), new Rng(1).bytes(2000))).toBe(0)
      expect(Buffer.compare(contentOf(crashed, 500_000, 2000), new Rng(2).bytes(2000))).toBe(0)
    }
  })

  it("seed defect 19: QC-BF-02 QC-L2-09 beyond a shorter backing image and the file there are zeroes, in a copied cluster too", () => {
    const disk = openGolden("overlay-short.qcow2")
    expect(isAll(contentOf(disk, 10_100, 12_288 - 10_100), 0)).toBe(true)
    disk.pwrite(new Uint8Array(10).fill(1), 11_000)
    const content = contentOf(disk, 10_100, 12_288 - 10_100)
    expect(content.reduce((sum, byte) => sum + byte, 0)).toBe(10)
    expect(isAll(contentOf(openGolden("cut.qcow2"), 9216, 3072), 0)).toBe(true)

    const image = new Qcow2Bytes(goldenBytes("v3-4k.qcow2"))
    image.setU64(image.l1Offset, (1n << 40n) | COPIED)
    expect(isAll(contentOf(openInMemory(MemoryFile.of(image.bytes, { readOnly: true }))), 0), "a table beyond the file is empty").toBe(true)
  })

  it("seed defect 20: a cluster that is overwritten whole is not read before, and tables are read once", () => {
    let backingReads = 0
    class CountingBacking extends RawBacking {
      override pread(buffer: Uint8Array, offset: number): void {
        backingReads++
        super.pread(buffer, offset)
      }
      override preadv(buffers: readonly Uint8Array[], offset: number): void {
        backingReads++
        super.preadv(buffers, offset)
      }
    }
    class CountingFile extends MemoryFile {
      reads = 0
      override readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
        this.reads++
        return super.readInto(buffer, start, length, offset)
      }
    }
    const file = new CountingFile()
    createQcow2(file, { size: 1 << 20, clusterSize: 4096, backing: "base", backingFormat: "raw" })
    const backing = (): BackingDisk => new CountingBacking(MemoryFile.of(new Rng(1).bytes(1 << 20), { readOnly: true }))
    const disk = openInMemory(file, { openBacking: backing })
    disk.pwrite(new Rng(2).bytes(40_960), 8192)
    expect(backingReads).toBe(0)
    disk.pwrite(new Rng(2).bytes(40_960), 100 * 4096 + 10)
    expect(backingReads, "head and tail only").toBe(2)
    disk.flush()
    const before = file.reads
    for (let round = 0; round < 100; round++) disk.pread(new Uint8Array(100), 8192 + 300 * round)
    expect(file.reads - before, "one for each read's data").toBe(100)
  })

  it("seed defect 22: QC-L2-10 two small writes to one new cluster are both kept; a second writer is refused", () => {
    const path = join(temporaryDirectory(), "image.qcow2")
    createImage(path, { size: 1 << 20 })
    const disk = openImage(path)
    disk.pwrite(new Uint8Array(512).fill(1), 0)
    disk.pwrite(new Uint8Array(512).fill(2), 512)
    expect(() => openImage(path)).toThrow(BackingError)
    disk.close()
    const again = openImage(path)
    const content = new Uint8Array(1536)
    void again.pread(content, 0)
    expect([content[0], content[511], content[512], content[1023], content[1024]]).toEqual([1, 1, 2, 2, 0])
    again.close()
  })

  it("seed defect 23: QC-WO-07 flush and close sync what was written before them", () => {
    for (const finish of ["flush", "close"] as const) {
      const recorder = new RecordingFile(MemoryFile.of(goldenBytes("v3-4k.qcow2")))
      const disk = openInMemory(recorder)
      disk.pwrite(new Uint8Array(512).fill(0x78), 0)
      disk[finish]()
      const data = recorder.log.findIndex((change) => change.kind === "write" && change.data[0] === 0x78)
      expect(recorder.log.slice(data).some((change) => change.kind === "sync")).toBe(true)
    }
  })

  it("seed defect 25: QC-SNAP-06 QC-L2-06 QC-CMP-10 a copy away from a snapshot drops one reference, and the snapshot stays", () => {
    for (const golden of goldenImages.filter(({ snapshots }) => snapshots.length > 0)) {
      const file = MemoryFile.of(goldenBytes(golden.file))
      const disk = openInMemory(file, { openBacking: goldenBacking(golden.file) })
      disk.pwrite(new Rng(1).bytes(9000), 1000)
      disk.close()
      expect(checkQcow2(file.clone()), golden.file).toMatchObject({ exitCode: 0 })
    }
    const image = new Qcow2Bytes(goldenBytes("snapshots-v2.qcow2"))
    const shared = image.hostOffset(0) / 1024
    const file = MemoryFile.of(image.bytes)
    const disk = openInMemory(file)
    disk.pwrite(new Uint8Array(1).fill(1), 0)
    disk.close()
    expect([image.refcount(shared), new Qcow2Bytes(file.toBytes()).refcount(shared)]).toEqual([2n, 1n])
  })

  it("seed defect 25: QC-L1-04 COPIED flags in a table that a snapshot shares are ignored", () => {
    const image = new Qcow2Bytes(goldenBytes("snapshots-v2.qcow2"))
    const snapshotL1 = Number(image.u64(image.snapshotsOffset))
    // The disk goes back to the snapshot's tables without a copy of its own, and these claim to be its alone.
    for (let at = 0; at < image.l1Size * 8; at += 8) {
      image.setU64(image.l1Offset + at, image.u64(snapshotL1 + at) & ~COPIED)
      if (image.u64(snapshotL1 + at) !== 0n) image.setRefcount(Number(image.u64(snapshotL1 + at) & ~COPIED) / 1024, 2n)
    }
    for (let offset = 0; offset < image.size; offset += image.clusterSize) {
      if (image.hostOffset(offset) !== 0) image.setL2(offset, image.l2(offset) | COPIED).setRefcount(image.hostOffset(offset) / 1024, 2n)
    }
    const file = MemoryFile.of(image.bytes)
    const disk = openInMemory(file)
    disk.pwrite(new Uint8Array(20_000).fill(0x99), 0)
    disk.close()
    const snapshot = openInMemory(MemoryFile.of(snapshotAsActive(file.toBytes(), 0), { readOnly: true }))
    const content = contentOf(snapshot)
    expect(isAll(content.subarray(0, 20 * 1024), 0x86)).toBe(true)
  })

  it("seed defect 26: QC-DZ-02 QC-DZ-04 discard and write-zeroes free space, and hide the backing image", () => {
    const file = MemoryFile.of(goldenBytes("overlay-long.qcow2"))
    const disk = openInMemory(file, { openBacking: goldenBacking("overlay-long.qcow2") })
    disk.discard(1024, 2048)
    disk.writeZeroes(10_000, 3000, true)
    expect(isAll(contentOf(disk, 1024, 2048), 0)).toBe(true)
    expect(isAll(contentOf(disk, 10_000, 3000), 0)).toBe(true)
    disk.close()
    expect(new Qcow2Bytes(file.toBytes()).l2(1024)).toBe(1n)
    expect(checkQcow2(file.clone())).toMatchObject({ exitCode: 0 })
  })
})
