/** External data files: where the guest's bytes lie, what the entries say, and which files are taken. */
import { mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { openImage } from "../../../src/backing/open.ts"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../../src/backing/qcow2/check/repair.ts"
import type { CreateQcow2Options } from "../../../src/backing/qcow2/create.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { goldenBytes } from "../../support/golden.ts"
import { openGolden } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { RecordingFile } from "../../support/recording-file.ts"
import { Rng } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"
import { LateFile } from "../paging/late-file.ts"
import { COMPRESSED, contentOf, COPIED, failureOf, filled, isZero, newImage, ZERO } from "./small-images.ts"

const CLUSTER = 4096
const SIZE = 64 * CLUSTER

/** A new image with a data file, both in memory; `use` opens them again and again. */
class Pair {
  file: MemoryFile
  data: MemoryFile

  constructor(options: Partial<CreateQcow2Options> = {}, data = new Uint8Array(SIZE)) {
    this.file = newImage({ size: SIZE, clusterSize: CLUSTER, dataFile: "disk.data", ...options })
    this.data = MemoryFile.of(data, { path: "disk.data" })
  }

  use(work: (image: Qcow2Image) => void): void {
    const image = openQcow2(this.file, { openDataFile: () => this.data })
    try {
      work(image)
    } finally {
      image.close()
      this.file = this.file.clone()
      this.data = this.data.clone()
    }
  }

  get bytes(): Qcow2Bytes {
    return new Qcow2Bytes(this.file.toBytes())
  }

  damage(work: (bytes: Qcow2Bytes) => void): void {
    const { bytes } = this
    work(bytes)
    this.file = MemoryFile.of(bytes.bytes, { path: this.file.path })
  }
}

describe("the guest's bytes", () => {
  it("QC-DF-01 QC-DF-02 data lies at its guest offset in the data file, with COPIED set and without refcounts", () => {
    const pair = new Pair()
    const before = pair.file.size()
    pair.use((image) => {
      image.pwrite(filled(CLUSTER, 0x11), 5 * CLUSTER)
      image.pwrite(filled(100, 0x22), 9 * CLUSTER + 50)
    })
    const { bytes } = pair
    expect(bytes.u64(bytes.l2At(5 * CLUSTER) ?? 0)).toBe(COPIED | BigInt(5 * CLUSTER))
    expect(bytes.u64(bytes.l2At(9 * CLUSTER) ?? 0)).toBe(COPIED | BigInt(9 * CLUSTER))
    const data = pair.data.toBytes()
    expect(data.length).toBe(SIZE)
    expect(data.subarray(5 * CLUSTER, 6 * CLUSTER)).toEqual(filled(CLUSTER, 0x11))
    expect(data.subarray(9 * CLUSTER + 50, 9 * CLUSTER + 150)).toEqual(filled(100, 0x22))
    // One L2 table is all that has come to the image file.
    expect(pair.file.size()).toBe(before + CLUSTER)
    expect(checkQcow2(pair.file)).toMatchObject({ exitCode: 0, allocatedClusters: 2 })
  })

  it("QC-DF-03 guest cluster 0 has the entry 0x8000000000000000; without bit 63 it is unallocated", () => {
    const pair = new Pair()
    pair.use((image) => image.pwrite(filled(CLUSTER, 0x33), 0))
    const at = pair.bytes.l2At(0) ?? 0
    expect(pair.bytes.u64(at)).toBe(COPIED)
    pair.use((image) => expect(contentOf(image, 0, CLUSTER)).toEqual(filled(CLUSTER, 0x33)))
    pair.damage((bytes) => bytes.setU64(at, 0n))
    pair.use((image) => expect(isZero(contentOf(image, 0, CLUSTER))).toBe(true))
  })

  it("QC-DF-06 old content of the data file never shows at a cluster without an entry, not even after a partial write", () => {
    const pair = new Pair({}, Uint8Array.from(new Rng(1).bytes(SIZE)))
    pair.use((image) => {
      expect(isZero(contentOf(image))).toBe(true)
      image.pwrite(filled(10, 0x44), 7 * CLUSTER + 1000)
      image.writeZeroes(8 * CLUSTER, CLUSTER, false)
      image.pwrite(filled(10, 0x45), 8 * CLUSTER + 1000)
    })
    const expected = new Uint8Array(SIZE)
    expected.fill(0x44, 7 * CLUSTER + 1000, 7 * CLUSTER + 1010)
    expected.fill(0x45, 8 * CLUSTER + 1000, 8 * CLUSTER + 1010)
    pair.use((image) => expect(Buffer.compare(contentOf(image), expected)).toBe(0))
  })

  it("QC-DF-06 QC-DF-08 discarded data reads as zeroes, and its space in the data file is freed", () => {
    const size = 8 << 20
    const pair = new Pair({ size, clusterSize: 65536 }, new Uint8Array(size))
    pair.use((image) => image.pwrite(filled(size, 0x55), 0))
    pair.use((image) => {
      image.discard(0, 4 << 20)
      image.pwrite(filled(100, 0x66), (1 << 20) + 5)
    })
    pair.use((image) => {
      const content = contentOf(image)
      expect([content[0], content[(1 << 20) + 5], content[(1 << 20) + 105], content[4 << 20]]).toEqual([0, 0x66, 0, 0x55])
    })
    const data = pair.data.toBytes()
    expect(isZero(data.subarray(2 << 20, 4 << 20))).toBe(true)
  })

  it("QC-DF-01 a write to a partial last cluster does not make the data file longer than the disk", () => {
    const size = 10 * CLUSTER + 512
    const pair = new Pair({ size }, new Uint8Array(size))
    pair.use((image) => image.pwrite(filled(100, 1), 10 * CLUSTER))
    expect(pair.data.size()).toBe(size)
  })

  for (const preallocation of ["metadata", "falloc", "full"] as const) {
    it(`QC-DF-03 QC-RSZ-06 data stays when a disk of one cluster grows, preallocated (${preallocation})`, () => {
      const pair = new Pair({ size: 1024 })
      pair.use((image) => {
        image.pwrite(filled(1024, 9), 0)
        image.resize(CLUSTER + 512, { preallocation })
        expect(Buffer.compare(contentOf(image, 0, 1024), filled(1024, 9))).toBe(0)
        expect(isZero(contentOf(image, 1024))).toBe(true)
      })
      expect(pair.data.size()).toBe(CLUSTER + 512)
    })
  }

  it("QC-WO-02 data is on stable storage before an entry refers to it", () => {
    const pair = new Pair()
    const image = new RecordingFile(pair.file)
    const data = new RecordingFile(pair.data, { log: image.log, to: "data" })
    const disk = openQcow2(image, { openDataFile: () => data })
    disk.pwrite(filled(CLUSTER, 1), 3 * CLUSTER)
    disk.flush()
    const written = image.log.findIndex(({ to, kind }) => to === "data" && kind === "write")
    const synced = image.log.findIndex(({ to, kind }) => to === "data" && kind === "sync")
    const entries = image.log.findLastIndex(({ to, kind }) => to === undefined && kind === "write")
    expect([written >= 0, written < synced, synced < entries]).toEqual([true, true, true])
  })
})

describe("raw data files", () => {
  it("QC-DF-07 a raw data file has every cluster from the start, and holds what the guest sees, zeroes and discards included", () => {
    const pair = new Pair({ dataFileRaw: true })
    expect(pair.bytes.autoclear).toBe(2n)
    expect(pair.bytes.u64(pair.bytes.l2At(63 * CLUSTER) ?? 0)).toBe(COPIED | BigInt(63 * CLUSTER))
    const before = pair.file.toBytes()
    pair.use((image) => {
      image.pwrite(new Rng(2).bytes(SIZE), 0)
      image.writeZeroes(1000, 3 * CLUSTER, false)
      image.writeZeroes(20 * CLUSTER, 5 * CLUSTER, true)
      image.discard(30 * CLUSTER + 7, 5 * CLUSTER)
      image.flush()
      expect(Buffer.compare(contentOf(image), pair.data.toBytes())).toBe(0)
      expect(isZero(contentOf(image, 31 * CLUSTER, 4 * CLUSTER))).toBe(true)
    })
    expect(Buffer.compare(pair.file.toBytes(), before), "no metadata has changed, and the bit has stayed").toBe(0)
  })

  it("QC-DF-07 a raw data file is extended to the length of the disk", () => {
    const pair = new Pair({ dataFileRaw: true }, new Uint8Array(1000))
    pair.use((image) => expect(isZero(contentOf(image))).toBe(true))
    expect(pair.data.size()).toBe(SIZE)
  })

  it("QC-DF-07 QC-RSZ-06 a raw data file grows with the disk, to its last byte, and zeroes and discards reach the new part", () => {
    const pair = new Pair({ dataFileRaw: true })
    const size = SIZE + 5 * CLUSTER + 1536
    pair.use((image) => {
      image.pwrite(filled(SIZE, 3), 0)
      image.resize(size)
      image.pwrite(filled(size - SIZE, 4), SIZE)
      image.writeZeroes(SIZE + CLUSTER + 10, 2 * CLUSTER, true)
      image.discard(SIZE + 4 * CLUSTER, CLUSTER + 1536)
      const content = contentOf(image)
      expect([content[SIZE + CLUSTER + 9], content[SIZE + CLUSTER + 10]]).toEqual([4, 0])
      expect(isZero(content.subarray(SIZE + 4 * CLUSTER))).toBe(true)
      expect(Buffer.compare(content, pair.data.toBytes())).toBe(0)
    })
    expect(pair.data.size()).toBe(size)
  })

  it("QC-DF-02 QC-RSZ-04 the disk shrinks without reading the L2 tables that go, which refer to no counted cluster", () => {
    const reads: number[] = []
    class Watched extends MemoryFile {
      override readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
        reads.push(offset)
        return super.readInto(buffer, start, length, offset)
      }
    }
    const coverage = CLUSTER * (CLUSTER / 8)
    const pair = new Pair({ size: 4 * coverage })
    pair.use((image) => {
      for (let table = 0; table < 4; table++) image.pwrite(filled(512, 1), table * coverage)
    })
    const tables = [1, 2, 3].map((table) => pair.bytes.l2At(table * coverage) ?? 0)
    const watched = new Watched({ path: "disk.qcow2" })
    watched.adopt(pair.file)
    const image = openQcow2(watched, { openDataFile: () => pair.data })
    image.resize(512, { shrink: true })
    image.close()
    expect(reads.filter((offset) => tables.includes(offset))).toEqual([])
  })

  it("QC-DF-07 dataFileRaw is refused with a backing file, without a data file, and in version 2", () => {
    const refused = (options: Partial<CreateQcow2Options>): string => failureOf(() => newImage({ size: SIZE, ...options })).code
    expect(refused({ dataFile: "d", dataFileRaw: true, backing: "b", backingFormat: "raw" })).toBe("invalid-argument")
    expect(refused({ dataFileRaw: true })).toBe("invalid-argument")
    expect(refused({ dataFile: "d", compat: "0.10" })).toBe("invalid-argument")
  })
})

describe("entries and features with a data file", () => {
  it("QC-DF-01 an entry for another offset is corruption for reads, writes and the check", () => {
    const pair = new Pair()
    pair.use((image) => image.pwrite(filled(2 * CLUSTER, 1), 2 * CLUSTER))
    pair.damage((bytes) => bytes.setU64(bytes.l2At(3 * CLUSTER) ?? 0, COPIED | BigInt(5 * CLUSTER)))
    expect(checkQcow2(pair.file)).toMatchObject({ exitCode: 2, findings: [{ kind: "entry" }] })
    pair.use((image) => {
      const message = /names byte 20480 of the external data file for byte 12288 of the disk/
      expect(() => contentOf(image, 3 * CLUSTER, 512)).toThrow(message)
      expect(failureOf(() => image.pwrite(filled(512, 2), 3 * CLUSTER)).code).toBe("corrupt")
    })
  })

  it("QC-DF-04 QC-CMP-13 a compressed entry is corruption, and compressed writes are refused", () => {
    const pair = new Pair()
    pair.use((image) => {
      image.pwrite(filled(CLUSTER, 1), 2 * CLUSTER)
      expect(failureOf(() => image.writeCompressed(new Uint8Array(CLUSTER), 0)).code).toBe("unsupported")
    })
    pair.damage((bytes) => bytes.setU64(bytes.l2At(2 * CLUSTER) ?? 0, COMPRESSED | 512n))
    expect(checkQcow2(pair.file)).toMatchObject({ exitCode: 2, findings: [{ kind: "entry" }] })
    pair.use((image) => {
      expect(() => contentOf(image, 2 * CLUSTER, 512)).toThrow(
        /a compressed cluster, which an image with an external data file cannot have/,
      )
    })
  })

  it("QC-DF-04 an image with internal snapshots as well is refused for writing", () => {
    const pair = new Pair()
    pair.damage((bytes) => bytes.setU32(60, 1).setU64(64, BigInt(bytes.bytes.length)))
    pair.file.write(new Uint8Array(CLUSTER), pair.file.size())
    expect(() => openQcow2(pair.file, { openDataFile: () => pair.data })).toThrow(/internal snapshots, which exclude each other/)
  })

  it("QC-DF-02 a missing COPIED is a corruption that a repair corrects, and data is never a leak", () => {
    const pair = new Pair()
    pair.use((image) => image.pwrite(filled(CLUSTER, 1), 2 * CLUSTER))
    pair.damage((bytes) => bytes.setU64(bytes.l2At(2 * CLUSTER) ?? 0, BigInt(2 * CLUSTER)))
    expect(checkQcow2(pair.file)).toMatchObject({ corruptions: 1, leaks: 0, findings: [{ kind: "copied" }] })
    // It is this disk's alone all the same.
    pair.use((image) => image.pwrite(filled(10, 9), 2 * CLUSTER + 5))
    pair.damage((bytes) => bytes.setU64(bytes.l2At(2 * CLUSTER) ?? 0, BigInt(2 * CLUSTER)))
    expect(repairQcow2(pair.file, "all")).toMatchObject({ exitCode: 0, corruptionsFixed: 1 })
    pair.use((image) => expect([...contentOf(image, 2 * CLUSTER, 16)]).toEqual([1, 1, 1, 1, 1, ...filled(10, 9), 1]))
  })

  it("QC-DF-02 an entry with the zero flag keeps its offset", () => {
    const pair = new Pair()
    pair.use((image) => image.pwrite(filled(2 * CLUSTER, 1), 0))
    pair.use((image) => image.writeZeroes(0, 2 * CLUSTER, false))
    expect(pair.bytes.u64(pair.bytes.l2At(CLUSTER) ?? 0)).toBe(COPIED | BigInt(CLUSTER) | ZERO)
    expect(checkQcow2(pair.file).exitCode).toBe(0)
    pair.use((image) => image.pwrite(filled(10, 7), CLUSTER + 100))
    pair.use((image) => expect(isZero(contentOf(image, 0, CLUSTER + 100))).toBe(true))
  })
})

describe("the choice of the data file", () => {
  it("QC-DF-05 an image that needs one is refused without, and an image that has none is refused with one", () => {
    const pair = new Pair()
    const changes = pair.file.changes
    expect(failureOf(() => openQcow2(pair.file)).message).toContain('needs its external data file "disk.data"')
    expect(pair.file.changes).toBe(changes)
    const directory = temporaryDirectory()
    const [plain, raw, data] = ["plain.qcow2", "plain.raw", "data"].map((name) => join(directory, name))
    createImage(plain ?? "", { size: SIZE })
    createImage(raw ?? "", { size: SIZE, format: "raw" })
    writeFileSync(data ?? "", "")
    for (const path of [plain ?? "", raw ?? ""]) {
      expect(failureOf(() => openImage(path, { dataFile: data ?? "" })).message).toContain("but the image has none")
    }
  })

  it("QC-DF-05 QC-DF-08 createImage makes both files; the stored name is relative to the image, and dataFile overrides it", () => {
    const directory = temporaryDirectory()
    const path = join(directory, "disk.qcow2")
    createImage(path, { size: SIZE, dataFile: "disk.raw", dataFileRaw: true })
    expect(statSync(join(directory, "disk.raw")).size).toBe(SIZE)
    const image = openImage(path)
    image.pwrite(filled(512, 5), 1024)
    image.close()
    expect(readFileSync(join(directory, "disk.raw")).subarray(1024, 1536)).toEqual(Buffer.from(filled(512, 5)))
    mkdirSync(join(directory, "elsewhere"))
    writeFileSync(join(directory, "elsewhere", "other"), filled(SIZE, 8))
    const other = openImage(path, { readOnly: true, dataFile: join(directory, "elsewhere", "other") })
    expect(other instanceof Qcow2Image && [other.dataPath, contentOf(other, 0, 1)[0]]).toEqual([join(directory, "elsewhere", "other"), 8])
    other.close()
    expect(failureOf(() => createImage(join(directory, "new.qcow2"), { size: SIZE, dataFile: "disk.raw" })).code).toBe("exists")
    expect(failureOf(() => createImage(join(directory, "new.qcow2"), { size: -1, dataFile: "never" })).code).toBe("invalid-argument")
    expect(failureOf(() => createImage(join(directory, "new.qcow2"), { size: SIZE, dataFile: "new.qcow2" })).code).toBe("invalid-argument")
    expect(() => statSync(join(directory, "never"))).toThrow("ENOENT")
  })

  it.each(["/etc/passwd", "../outside", "sub/../../outside", "json:{}", "nbd://host/x", "file:/etc/passwd", "C:\\x"])(
    "QC-DF-08 a name outside the image's folder is refused unless resolveBacking allows it: %s",
    (name) => {
      const directory = temporaryDirectory()
      const path = join(directory, "disk.qcow2")
      newImage({ size: SIZE, dataFile: name }).save(path)
      expect(failureOf(() => openImage(path)).message).toMatch(/outside of the image's folder/)
      writeFileSync(join(directory, "mine"), "")
      const asked: unknown[] = []
      openImage(path, { resolveBacking: (reference) => (asked.push(reference), join(directory, "mine")) }).close()
      expect(asked).toEqual([{ name, format: "raw", imagePath: path, isDataFile: true }])
    },
  )

  it("QC-DF-08 the image itself is refused as its data file, under any name, and the data file is locked as the image is", () => {
    const directory = temporaryDirectory()
    const path = join(directory, "disk.qcow2")
    newImage({ size: SIZE, dataFile: "again" }).save(path)
    symlinkSync(path, join(directory, "again"))
    expect(failureOf(() => openImage(path)).message).toContain("it is itself an image of this chain")
    const [first, second] = ["first.qcow2", "second.qcow2"].map((name) => join(directory, name))
    createImage(first ?? "", { size: SIZE, dataFile: "shared" })
    newImage({ size: SIZE, dataFile: "shared" }).save(second ?? "")
    const image = openImage(first ?? "")
    expect(failureOf(() => openImage(second ?? "")).code).toBe("busy")
    image.close()
  })

  it("QC-DF-08 a link that leaves the image's folder is refused, unless dataFile names its target", () => {
    const directory = temporaryDirectory()
    for (const folder of ["images", "images/sub", "secret"]) mkdirSync(join(directory, folder))
    const [path, secret] = [join(directory, "images/disk.qcow2"), join(directory, "secret/file")]
    newImage({ size: SIZE, dataFile: "data" }).save(path)
    for (const file of [secret, join(directory, "images/sub/file")]) writeFileSync(file, filled(SIZE, 7))
    symlinkSync("../secret/file", join(directory, "images/data"))
    expect(failureOf(() => openImage(path))).toMatchObject({
      code: "unsupported", message: expect.stringMatching(/"data" is outside of the image's folder/),
    })
    expect(failureOf(() => openImage(path, { readOnly: true })).code).toBe("unsupported")
    openImage(path, { dataFile: secret }).close()
    rmSync(join(directory, "images/data"))
    symlinkSync("../secret", join(directory, "images/data"))
    newImage({ size: SIZE, dataFile: "data/file" }).save(path)
    expect(failureOf(() => openImage(path)).code).toBe("unsupported")
    newImage({ size: SIZE, dataFile: "other" }).save(path)
    symlinkSync("sub/file", join(directory, "images/other"))
    openImage(path).close()
  })

  it("QC-DF-08 a read-only image does not change its data file, and a read-only data file is refused for writing", () => {
    const pair = new Pair({ dataFileRaw: true }, new Uint8Array(100))
    const image = openQcow2(pair.file.clone({ readOnly: true }), { openDataFile: () => pair.data })
    expect(isZero(contentOf(image))).toBe(true)
    expect(pair.data.changes).toBe(0)
    const error = failureOf(() => openQcow2(pair.file, { openDataFile: () => pair.data.clone({ readOnly: true }) }))
    expect([error.code, error.message]).toEqual(["read-only", expect.stringContaining("its external data file is read-only")])
  })

  it("QC-DF-05 openDisk asks `backing` for the data file, and closes it when the opening fails", async () => {
    const pair = new Pair()
    const asked: unknown[] = []
    const disk = await openDisk(pair.file.clone(), { backing: (reference) => (asked.push(reference), pair.data.clone()) })
    await disk.pwrite(filled(512, 3), 0)
    await disk.close()
    expect(asked).toEqual([{ name: "disk.data", format: "raw", imagePath: "disk.qcow2", isDataFile: true }])
    const readOnly = pair.data.clone({ readOnly: true })
    await expect(openDisk(pair.file.clone(), { backing: () => readOnly })).rejects.toThrow("read-only")
    expect(failureOf(() => readOnly.size()).code).toBe("closed")
    await expect(openDisk(pair.file.clone(), { backing: () => disk })).rejects.toThrow("a disk for an external data file")
  })

  it("QC-DF-01 QC-DF-03 a data file of QEMU is read", () => {
    const image = openGolden("data-file.qcow2", { readOnly: true })
    expect(contentOf(image, 0, 513)).toEqual(Uint8Array.from([...filled(512, 0xa4), 0]))
    expect(new Qcow2Bytes(goldenBytes("data-file.qcow2")).u64(new Qcow2Bytes(goldenBytes("data-file.qcow2")).l2At(0) ?? 0)).toBe(COPIED)
  })
})

describe("a data file of an image whose file answers late", () => {
  const LONG = 2 << 20

  for (const isDataLate of [true, false]) {
    it(`QC-WO-04 QC-DZ-08 discarded data stays until the entry is stored (data file ${isDataLate ? "late" : "at once"})`, async () => {
      const rng = new Rng(8)
      const file = newImage({ size: LONG, clusterSize: 65_536, dataFile: "disk.data" })
      const image = new RecordingFile(file)
      const data = new RecordingFile(MemoryFile.of(rng.bytes(LONG), { path: "disk.data" }), { log: image.log, to: "data" })
      const disk = await openDisk(new LateFile(image, rng), {
        backing: () => (isDataLate ? new LateFile(data, rng, { canPunch: true }) : data),
      })
      await disk.pwrite(filled(LONG, 7), 0)
      await disk.flush?.()
      image.log.length = 0
      await disk.discard?.(0, LONG)
      await disk.flush?.()
      await disk.close()
      const hole = image.log.findIndex(({ kind, to }) => kind === "punch" && to === "data")
      const before = image.log.slice(0, hole).filter(({ to }) => to !== "data").map(({ kind }) => kind)
      expect(before).toEqual(["write", "sync"])
    })
  }
})
