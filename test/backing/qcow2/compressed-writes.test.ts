/** Writing compressed clusters: how they are packed, when they are not, and what becomes of the place of those that are gone. */
import * as zlib from "node:zlib"
import { describe, expect, it } from "vitest"
import { nodeDecompressor } from "../../../src/backing/host/node-decompressor.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { pageDecompressor } from "../../../src/backing/qcow2/page-decompressor.ts"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import type { MemoryFile } from "../../support/memory-file.ts"
import type { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { Rng } from "../../support/rng.ts"
import { COMPRESSED, contentOf, COPIED, failureOf, fileOf, filled, newImage, newOverlay, withImage } from "./small-images.ts"

const CLUSTER = 4096

/** A cluster that becomes about `share` of its size. */
function text(share: number, seed: number, length = CLUSTER): Uint8Array {
  const noise = new Rng(seed).bytes(Math.floor(length * share))
  const content = filled(length, 0x41)
  content.set(noise)
  return content
}

/** What the entry of a guest cluster says: where its stream begins, and the end of its last sector. Typed from the format document. */
function streamOf(image: Qcow2Bytes, guest: number): { readonly offset: number; readonly end: number } {
  const entry = image.l2(guest)
  expect(entry & COMPRESSED).not.toBe(0n)
  expect(entry & COPIED).toBe(0n)
  const bits = BigInt(62 - (Math.log2(image.clusterSize) - 8))
  const offset = Number(entry & ((1n << bits) - 1n))
  const sectors = Number((entry & ((1n << 62n) - 1n)) >> bits)
  return { offset, end: (Math.floor(offset / 512) + sectors + 1) * 512 }
}

function expectClean(file: MemoryFile): void {
  expect(checkQcow2(file.clone({ readOnly: true }))).toMatchObject({ corruptions: 0, leaks: 0 })
}

describe("writing compressed clusters", () => {
  it("QC-CMP-09 QC-CMP-12 neighbours share host clusters, also across their borders, and each touched cluster counts each of them", () => {
    const file = newImage({ clusterSize: CLUSTER })
    const contents = Array.from({ length: 20 }, (_, index) => text(0.3, index + 1))
    const image = withImage(file, (disk) => contents.forEach((content, index) => disk.writeCompressed(content, index * CLUSTER)))
    expectClean(file)
    const counts = new Map<number, number>()
    let straddling = 0
    for (let guest = 0; guest < contents.length; guest++) {
      const { offset, end } = streamOf(image, guest * CLUSTER)
      const [first, last] = [Math.floor(offset / CLUSTER), Math.floor((end - 1) / CLUSTER)]
      if (last > first) straddling++
      for (let cluster = first; cluster <= last; cluster++) counts.set(cluster, (counts.get(cluster) ?? 0) + 1)
    }
    expect(straddling).toBeGreaterThan(2)
    expect(Math.max(...counts.values())).toBeGreaterThan(3)
    for (const [cluster, count] of counts) expect(image.refcount(cluster), `cluster ${cluster}`).toBe(BigInt(count))
    // Some 30 % each, without gaps.
    expect(counts.size).toBeLessThan(9)
    const disk = openQcow2(file)
    contents.forEach((content, index) => expect(contentOf(disk, index * CLUSTER, CLUSTER)).toEqual(content))
  })

  it("QC-CMP-05 a reader with a window of 4 KiB inflates them", () => {
    const file = newImage({ clusterSize: 65536 })
    const tile = new Rng(3).bytes(8192)
    const content = new Uint8Array(65536)
    for (let at = 0; at < content.length; at += tile.length) content.set(tile, at)
    content.fill(7, 20_000, 60_000)
    const image = withImage(file, (disk) => disk.writeCompressed(content, 0))
    const { offset, end } = streamOf(image, 0)
    const inflated = zlib.inflateRawSync(image.bytes.subarray(offset, end), { windowBits: 12, finishFlush: 2 })
    expect(Buffer.compare(inflated, content)).toBe(0)
  })

  it("QC-CMP-12 a cluster that does not become smaller is stored uncompressed, in a cluster of its own", () => {
    const file = newImage({ clusterSize: CLUSTER })
    const noise = new Rng(1).bytes(2 * CLUSTER).map((byte, at) => (byte * (at + 77)) ^ (at >> 3))
    const random = Uint8Array.from({ length: 2 * CLUSTER }, (_, at) => new Rng(at + 1).below(256) ^ (noise[at] ?? 0))
    const image = withImage(file, (disk) => disk.writeCompressed(random, 0))
    for (const guest of [0, CLUSTER]) expect(image.l2(guest) & (COMPRESSED | COPIED)).toBe(COPIED)
    expectClean(file)
    expect(contentOf(openQcow2(file), 0, 2 * CLUSTER)).toEqual(random)
  })

  it("QC-CMP-12 only whole clusters are taken; the disk's last one may end with it, and its stream still yields a whole one", () => {
    const file = newImage({ clusterSize: CLUSTER, size: 3 * CLUSTER + 512 })
    const content = text(0.2, 5, 2 * CLUSTER + 512)
    const image = withImage(file, (disk) => {
      expect(failureOf(() => disk.writeCompressed(filled(CLUSTER, 1), 512)).code).toBe("invalid-argument")
      expect(failureOf(() => disk.writeCompressed(filled(512, 1), 0)).code).toBe("invalid-argument")
      expect(failureOf(() => disk.writeCompressed(filled(CLUSTER, 1), 3 * CLUSTER)).code).toBe("out-of-bounds")
      disk.writeCompressed(content, CLUSTER)
    })
    const { offset, end } = streamOf(image, 3 * CLUSTER)
    expect(zlib.inflateRawSync(image.bytes.subarray(offset, end), { finishFlush: 2 }).length).toBe(CLUSTER)
    expect(contentOf(openQcow2(file), CLUSTER)).toEqual(content)
  })

  it("QC-CMP-12 an allocated cluster is refused and stays; a compressed one is replaced, and its place is freed", () => {
    const file = newImage({ clusterSize: CLUSTER })
    const image = withImage(file, (disk) => {
      disk.pwrite(filled(CLUSTER, 1), 0)
      disk.pwrite(filled(CLUSTER, 2), CLUSTER)
      disk.writeZeroes(CLUSTER, CLUSTER, false)
      for (const offset of [0, CLUSTER]) {
        const failure = failureOf(() => disk.writeCompressed(filled(CLUSTER, 9), offset))
        expect(failure.code).toBe("unsupported")
        expect(failure.message).toContain(`guest byte ${offset} is allocated already`)
      }
      for (let seed = 1; seed < 200; seed++) disk.writeCompressed(text(0.5, seed), 2 * CLUSTER)
      expect(contentOf(disk, 2 * CLUSTER, CLUSTER)).toEqual(text(0.5, 199))
    })
    expectClean(file)
    expect(contentOf(openQcow2(file.clone()), 0, CLUSTER)).toEqual(filled(CLUSTER, 1))
    expect(streamOf(image, 2 * CLUSTER).offset).toBeGreaterThan(0)
  })

  it("QC-CMP-14 with refcounts of one bit each stream begins in a cluster of its own", () => {
    const file = newImage({ clusterSize: CLUSTER, refcountBits: 1 })
    const image = withImage(file, (disk) => {
      for (let index = 0; index < 4; index++) disk.writeCompressed(text(0.1, index + 1), index * CLUSTER)
    })
    const clusters = [0, 1, 2, 3].map((index) => Math.floor(streamOf(image, index * CLUSTER).offset / CLUSTER))
    expect(new Set(clusters).size).toBe(4)
    expectClean(file)
  })

  it("QC-CMP-10 QC-CMP-12 a freed place may hold another stream, and no cached content of the old one is returned", () => {
    const file = newImage({ clusterSize: CLUSTER })
    withImage(file, (disk) => {
      for (let seed = 1; seed < 40; seed++) {
        disk.writeCompressed(text(0.4, seed), 0)
        expect(contentOf(disk, 0, CLUSTER)).toEqual(text(0.4, seed))
        disk.discard(0, CLUSTER)
        // Now the old place is free for the next one.
        disk.flush()
        disk.flush()
      }
    })
    expect(file.size()).toBeLessThan(12 * CLUSTER)
    expectClean(file)
  })

  it("QC-CMP-09 no stream is added to a partly filled cluster that was freed and reused for plain data", () => {
    const file = newImage({ clusterSize: CLUSTER })
    withImage(file, (disk) => {
      disk.writeCompressed(text(0.2, 1), 0)
      disk.discard(0, CLUSTER)
      disk.flush()
      disk.flush()
      for (let index = 1; index < 8; index++) disk.pwrite(filled(CLUSTER, index), index * CLUSTER)
      disk.writeCompressed(text(0.2, 2), 0)
      for (let index = 1; index < 8; index++) expect(contentOf(disk, index * CLUSTER, CLUSTER)).toEqual(filled(CLUSTER, index))
      expect(contentOf(disk, 0, CLUSTER)).toEqual(text(0.2, 2))
    })
    expectClean(file)
  })

  it("QC-CMP-11 a compressed cluster hides the backing image, and a partial write merges with the cluster", () => {
    const { file, openBacking } = newOverlay(filled(1 << 20, 5), { clusterSize: CLUSTER })
    const expected = text(0.3, 1)
    withImage(file, (disk) => {
      disk.writeCompressed(expected, CLUSTER)
      disk.pwrite(filled(100, 9), CLUSTER + 10)
      expected.fill(9, 10, 110)
      expect(contentOf(disk, CLUSTER, CLUSTER)).toEqual(expected)
      expect(contentOf(disk, 0, CLUSTER)).toEqual(filled(CLUSTER, 5))
    }, { openBacking })
    expectClean(file)
  })

  it("QC-CMP-12 streams from other threads are stored like those made at once", async () => {
    const [one, other] = [newImage({ clusterSize: CLUSTER }), newImage({ clusterSize: CLUSTER })]
    const contents = [text(0.3, 1), text(0.3, 2), text(0.3, 3)]
    const disks: readonly Qcow2Image[] = [openQcow2(one), openQcow2(other)]
    const [atOnce, later] = disks
    for (const [index, content] of contents.entries()) atOnce?.writeCompressed(content, index * CLUSTER)
    const streams = await Promise.all(contents.map((content) => later?.compressLater(content)))
    const all = Buffer.concat(contents)
    later?.writeCompressed(all, 0, streams.filter((stream) => stream !== undefined))
    for (const disk of disks) disk.close()
    expect(Buffer.compare(one.toBytes(), other.toBytes())).toBe(0)
  })

  it("QC-CMP-12 a platform without a compressor refuses, and says so", async () => {
    const file = newImage({ clusterSize: CLUSTER })
    const disk = openQcow2(file, { decompressor: pageDecompressor })
    expect(failureOf(() => disk.writeCompressed(filled(CLUSTER, 1), 0))).toMatchObject({
      code: "unsupported", message: expect.stringContaining("cannot compress"),
    })
    await expect(disk.compressLater(filled(CLUSTER, 1))).rejects.toMatchObject({ code: "unsupported" })
  })

  it("QC-CMP-07 QC-CMP-08 an image of type zstd gets zstd frames in a Node that writes them, and is refused elsewhere", () => {
    const image = withImage(newImage({ clusterSize: CLUSTER }), () => undefined)
    // Incompatible bit 3, and the type at byte 104.
    const file = fileOf(image.setU64(72, 8n).setU8(104, 1))
    const frame = new Uint8Array([0x28, 0xb5, 0x2f, 0xfd])
    const canWrite = Reflect.has(zlib, "zstdCompressSync")
    const disk = openQcow2(file)
    if (canWrite) disk.writeCompressed(text(0.3, 1), 0)
    else expect(failureOf(() => disk.writeCompressed(text(0.3, 1), 0)).message).toContain("does not write zstd")
    disk.close()
    const own = openQcow2(fileOf(image), { decompressor: { ...nodeDecompressor, compress: () => frame } })
    own.writeCompressed(text(0.3, 1), CLUSTER)
    expect(failureOf(() => own.pread(new Uint8Array(512), CLUSTER)).message).toContain("cannot be decompressed")
  })
})
