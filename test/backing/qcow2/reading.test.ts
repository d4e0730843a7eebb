/** Reading qcow2 images: every kind of cluster, backing files, broken tables. */
import { deflateRawSync } from "node:zlib"
import { describe, expect, it } from "vitest"
import { nodeDecompressor } from "../../../src/backing/host/node-decompressor.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import type { Decompressor } from "../../../src/backing/qcow2/format/compression.ts"
import { openQcow2Image } from "../../../src/backing/qcow2/open.ts"
import { goldenBytes, goldenImages, sha256 } from "../../support/golden.ts"
import { openGolden } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { Rng } from "../../support/rng.ts"
import { COMPRESSED, contentOf, COPIED, failureOf, fileOf, filled, isZero, newImage, newOverlay, withImage, ZERO } from "./small-images.ts"

const CLUSTER = 65536

describe("reading images that QEMU made", () => {
  for (const golden of goldenImages) {
    it(`QC-BF-01 QC-BF-02 QC-BF-03 QC-BF-04 QC-L2-09 reads ${golden.file} (${golden.about}) byte for byte, and writes nothing`, () => {
      const file = MemoryFile.of(goldenBytes(golden.file), { path: golden.file, readOnly: true })
      const image = openGolden(golden.file, { readOnly: true, file })
      expect(image.size).toBe(golden.size)
      expect(sha256(contentOf(image))).toBe(golden.sha256)
      const vectored = [new Uint8Array(1), new Uint8Array(511), new Uint8Array(golden.size - 512)]
      image.preadv(vectored, 0)
      expect(sha256(Buffer.concat(vectored))).toBe(golden.sha256)
      expect(file.changes).toBe(0)
    })
  }
})

describe("the decompressor", () => {
  const open = (decompressor?: Decompressor, name = "zlib-512.qcow2") =>
    openQcow2Image(MemoryFile.of(goldenBytes(name), { readOnly: true }), decompressor === undefined ? {} : { decompressor })

  it.each([
    "zlib-512.qcow2", "zlib-4k.qcow2", "zstd-4k.qcow2",
  ])("QC-CMP-07 QC-CMP-08 a decompressor is optional: %s is read without one", (name) => {
    expect(sha256(contentOf(open(undefined, name)))).toBe(goldenImages.find(({ file }) => file === name)?.sha256)
  })

  it("makes an image slow once a compressed cluster of it, or of an image behind it, has been read", () => {
    const image = open(nodeDecompressor)
    const above = openQcow2Image(newImage({ backing: "b", backingFormat: "qcow2", size: image.size }), { openBacking: () => image })
    const pieces = [...image.map(0, image.size)]
    for (const { kind, offset, length } of pieces) if (kind !== "compressed") contentOf(above, offset, length)
    expect([image.slow, above.slow]).toEqual([false, false])
    const compressed = pieces.find(({ kind }) => kind === "compressed")
    contentOf(above, compressed?.offset ?? Number.NaN, 512)
    expect([image.slow, above.slow]).toEqual([true, true])
  })

  it("may throw until it is ready: the caller gets that error, and a repeated read succeeds", () => {
    const notYet = new Error("not loaded")
    let ready = false
    const image = open({
      decompress(stored, clusterSize, type) {
        if (!ready) throw notYet
        return nodeDecompressor.decompress(stored, clusterSize, type)
      },
    })
    expect(() => contentOf(image)).toThrow(notYet)
    ready = true
    expect(sha256(contentOf(image))).toBe(goldenImages.find(({ file }) => file === "zlib-512.qcow2")?.sha256)
  })
})

describe("the bytes of the disk", () => {
  it("QC-L2-03 a zero cluster with a place reads as zeroes, not as the content of that place", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    image.setL2(0, image.l2(0) | ZERO)
    expect(isZero(contentOf(openQcow2(fileOf(image)), 0, CLUSTER))).toBe(true)
  })

  it("seed defect 11: a plain zero cluster does not read as the image's header", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    expect(isZero(contentOf(openQcow2(fileOf(image.setL2(0, ZERO))), 0, CLUSTER))).toBe(true)
  })

  it("QC-L2-07 COPIED without an offset is unallocated", () => {
    const { file, openBacking } = newOverlay(filled(1 << 20, 5))
    const image = withImage(file, (disk) => disk.pwrite(filled(512, 7), 0), { openBacking })
    const disk = openQcow2(fileOf(image.setL2(0, COPIED)), { openBacking })
    expect(contentOf(disk, 0, 512)).toEqual(filled(512, 5))
  })

  it("QC-L2-09 the end of a cluster, a cluster and a table past the end of the file read as zeroes", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(2 * CLUSTER, 7), 0))
    const cut = image.bytes.length - CLUSTER - 512
    const disk = openQcow2(MemoryFile.of(image.bytes.subarray(0, cut), { readOnly: true }))
    expect(contentOf(disk, 0, CLUSTER - 512)).toEqual(filled(CLUSTER - 512, 7))
    expect(isZero(contentOf(disk, CLUSTER - 512))).toBe(true)
    disk.preadv([new Uint8Array(3), new Uint8Array(2 * CLUSTER)], 5)
    const beyond = openQcow2(fileOf(image.setU64(image.l1At(0), COPIED | 0x10_0000_0000n), { readOnly: true }))
    expect(isZero(contentOf(beyond))).toBe(true)
  })

  it("QC-HDR-09 a larger L1 table than needed is fine", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(512, 7), 0))
    expect(contentOf(openQcow2(fileOf(image.setU32(36, 101))), 0, 512)).toEqual(filled(512, 7))
  })

  it("QC-L2-08 QC-HDR-08 a disk of any number of bytes ends inside its last cluster", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(1 << 20, 7), 0))
    const disk = openQcow2(fileOf(image.setU64(24, 70_001n)))
    expect(disk.size).toBe(70_001)
    disk.pwrite(filled(1, 9), 70_000)
    expect(contentOf(disk, 69_999)).toEqual(Uint8Array.of(7, 9))
    expect(failureOf(() => disk.pread(new Uint8Array(2), 70_000)).code).toBe("out-of-bounds")
  })

  it("QC-BF-02 QC-BF-04 a shorter backing image ends anywhere, a longer one is cut off", () => {
    const { open } = newOverlay(filled(100_000, 5))
    const disk = open()
    expect(contentOf(disk, 99_990, 20)).toEqual(Uint8Array.from([...filled(10, 5), ...filled(10, 0)]))
    expect(isZero(contentOf(disk, 100_000))).toBe(true)
    // One sector of the last cluster is written: the rest must not keep what lies beyond the disk's end.
    const long = newOverlay(filled(4 * CLUSTER, 5), { size: CLUSTER + 512 })
    const grown = withImage(long.file, (overlay) => overlay.pwrite(filled(512, 9), CLUSTER), { openBacking: long.openBacking })
    const place = grown.hostOffset(CLUSTER)
    expect(isZero(grown.bytes.subarray(place + 512, place + CLUSTER))).toBe(true)
  })

  it("seed defect 10: an error of the backing image is an error, no zeroes", () => {
    const { file } = newOverlay(filled(1 << 20, 5))
    const broken = {
      size: 1 << 20,
      pread: () => {
        throw new Error("gone")
      },
      preadv: () => {
        throw new Error("gone")
      },
      close: () => {},
    }
    const disk = openQcow2(file, { openBacking: () => broken })
    expect(() => disk.pread(new Uint8Array(512), 0)).toThrow("gone")
    expect(() => disk.pwrite(new Uint8Array(512), 0)).toThrow("gone")
  })

  it("QC-L1-03 QC-L2-05 QC-FEAT-10 invalid entries are errors; a read-only image is not marked", () => {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(512, 7), 0))
    for (const change of [
      (it: Qcow2Bytes) => it.setL2(0, COPIED | 0x5_0200n),
      (it: Qcow2Bytes) => it.setU64(it.l1At(0), COPIED | 0x5_0200n),
    ]) {
      const file = fileOf(change(new Qcow2Bytes(image.bytes)), { readOnly: true })
      const disk = openQcow2(file)
      expect(failureOf(() => disk.pread(new Uint8Array(512), 0)).code).toBe("corrupt")
      expect(file.changes).toBe(0)
    }
  })

  it("the map merges neighbours, and agrees with what is read", () => {
    const image = withImage(newImage(), (disk) => {
      disk.pwrite(filled(2 * CLUSTER, 7), CLUSTER)
      disk.writeZeroes(CLUSTER * 2, CLUSTER, false)
    })
    const place = image.hostOffset(CLUSTER)
    const disk = openQcow2(fileOf(image))
    expect([...disk.map(0, 1 << 20)]).toEqual([
      { offset: 0, length: CLUSTER, kind: "backing", hostOffset: undefined },
      { offset: CLUSTER, length: CLUSTER, kind: "data", hostOffset: place },
      { offset: CLUSTER * 2, length: CLUSTER, kind: "zero", hostOffset: place + CLUSTER },
      { offset: CLUSTER * 3, length: 13 * CLUSTER, kind: "backing", hostOffset: undefined },
    ])
    expect([...disk.map(CLUSTER + 5, 10)]).toEqual([{ offset: CLUSTER + 5, length: 10, kind: "data", hostOffset: place + 5 }])
  })
})

describe("compressed clusters", () => {
  const rng = new Rng(77)
  const text = Uint8Array.from({ length: CLUSTER }, (_, at) => (at % 97) + rng.below(3))

  /** An image whose first cluster is `stored`, as a compressed cluster at an odd offset at the file's end. */
  function compressedImage(stored: Uint8Array, furtherSectors?: number): Qcow2Bytes {
    const image = withImage(newImage(), (disk) => disk.pwrite(filled(512, 7), 0))
    const at = image.grow(2) + 0x123
    image.bytes.set(stored, at)
    const sectors = furtherSectors ?? Math.floor((at + stored.length - 1) / 512) - Math.floor(at / 512)
    return image.setL2(0, COMPRESSED | (BigInt(sectors) << 54n) | BigInt(at))
  }
  const read = (image: Qcow2Bytes, readOnly = true): Uint8Array => contentOf(openQcow2(fileOf(image, { readOnly })), 0, CLUSTER)

  it("QC-CMP-05 streams of any window are read", () => {
    for (const windowBits of [9, 12, 15]) expect(read(compressedImage(deflateRawSync(text, { windowBits })))).toEqual(text)
    // A match further back than the 4 KiB window that the format's writers use.
    const far = Uint8Array.from(text)
    far.set(rng.bytes(8192), 0)
    far.copyWithin(20_000, 0, 8192)
    expect(read(compressedImage(deflateRawSync(far, { windowBits: 15 })))).toEqual(far)
  })

  it("QC-CMP-06 bytes behind the stream are ignored, and so is output beyond a cluster", () => {
    const stream = deflateRawSync(text)
    expect(read(compressedImage(Buffer.concat([stream, rng.bytes(700)])))).toEqual(text)
    for (const tail of [1, 5000, 1 << 20]) {
      const longer = Buffer.concat([text, new Uint8Array(tail)])
      expect(read(compressedImage(deflateRawSync(longer)))).toEqual(text)
    }
  })

  it("QC-CMP-06 a stream may lack its last block once a cluster is complete; a shorter or broken one is an error", () => {
    const { Z_SYNC_FLUSH } = { Z_SYNC_FLUSH: 2 }
    const open = deflateRawSync(text, { finishFlush: Z_SYNC_FLUSH })
    expect(read(compressedImage(open))).toEqual(text)
    expect(failureOf(() => read(compressedImage(deflateRawSync(text.subarray(0, CLUSTER - 1))))).code).toBe("io")
    expect(failureOf(() => read(compressedImage(deflateRawSync(rng.bytes(40_000)).subarray(0, 20_000), 40))).code).toBe("io")
    expect(failureOf(() => read(compressedImage(filled(3000, 0xff)))).code).toBe("io")
  })

  it("QC-CMP-14 the last sector may reach past the end of the file", () => {
    const image = compressedImage(deflateRawSync(text), 127)
    image.bytes = image.bytes.subarray(0, image.bytes.findLastIndex((byte) => byte !== 0) + 1)
    expect(read(image)).toEqual(text)
  })

  it("small reads inflate their cluster once, and clusters of different entries are not mixed up", () => {
    const disk = openGolden("zlib-4k.qcow2", { readOnly: true })
    const whole = contentOf(disk)
    for (let step = 0; step < 500; step++) {
      const length = rng.between(1, 6000)
      const offset = rng.below(disk.size - length)
      expect(Buffer.compare(contentOf(disk, offset, length), whole.subarray(offset, offset + length))).toBe(0)
    }
  })

  it("QC-CMP-10 QC-CMP-11 a partial write keeps the rest, and frees every cluster that the stream touched", () => {
    const stored = deflateRawSync(text)
    const image = compressedImage(stored)
    const host = Number(image.l2(0) & 0x3f_ffff_ffff_ffffn)
    const first = Math.floor(host / CLUSTER)
    image.setRefcount(first, 1n)
    const after = withImage(fileOf(image), (disk) => disk.pwrite(filled(512, 9), 1024))
    const expected = Uint8Array.from(text)
    expected.fill(9, 1024, 1536)
    expect(read(after)).toEqual(expected)
    expect(after.refcount(first)).toBe(0n)
    expect(after.l2(0) & COMPRESSED).toBe(0n)
  })
})
