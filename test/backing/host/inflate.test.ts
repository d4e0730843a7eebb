/** Compressed clusters: streams of zlib and zstd, whole and broken. */
import * as zlib from "node:zlib"
import { describe, expect, it } from "vitest"
import { canDecompress, decompressCluster, zstdFrameLength } from "../../../src/backing/host/inflate.ts"
import { goldenBytes } from "../../support/golden.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"

/** The stored bytes of each compressed cluster of a golden image. */
function storedClusters(name: string): { stored: Uint8Array; offset: number }[] {
  const image = new Qcow2Bytes(goldenBytes(name))
  const x = BigInt(62 - (Math.log2(image.clusterSize) - 8))
  const found = []
  for (let offset = 0; offset < image.size; offset += image.clusterSize) {
    const entry = image.l2(offset)
    if (entry >> 62n !== 1n) continue
    const host = Number(entry & ((1n << x) - 1n))
    const sectors = Number((entry & ((1n << 62n) - 1n)) >> x)
    found.push({ stored: image.bytes.subarray(host, host + (sectors + 1) * 512 - (host % 512)), offset })
  }
  return found
}

describe("zstd frames", () => {
  const clusters = storedClusters("zstd-4k.qcow2")

  it("QC-CMP-07 the end of a frame is found in what QEMU stored, and nothing of what follows is taken", () => {
    expect(clusters.length).toBeGreaterThan(0)
    for (const { stored } of clusters) {
      const length = zstdFrameLength(stored)
      expect(length).toBeGreaterThan(8)
      expect(length).toBeLessThanOrEqual(stored.length)
      expect(zstdFrameLength(stored.subarray(0, length))).toBe(length)
      for (const cut of [0, 3, 4, 5, 8, length - 1]) expect(() => zstdFrameLength(stored.subarray(0, cut))).toThrow("ends inside")
    }
  })

  it("QC-CMP-07 frames by hand: raw and repeated blocks, a checksum, a frame to skip, other data", () => {
    const header = [0x28, 0xb5, 0x2f, 0xfd]
    // Single segment, 4 bytes of content, one raw block of 4 bytes that is the last.
    expect(zstdFrameLength(Uint8Array.from([...header, 0x20, 4, 0x21, 0, 0, 1, 2, 3, 4, 99]))).toBe(13)
    // A window byte, a checksum; a repeated block of 100 bytes, then an empty last raw one.
    expect(zstdFrameLength(Uint8Array.from([...header, 0x04, 0x58, 0x22, 0x03, 0, 7, 0x01, 0, 0, 1, 1, 1, 1, 99]))).toBe(17)
    expect(zstdFrameLength(Uint8Array.from([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9, 99]))).toBe(11)
    expect(() => zstdFrameLength(Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8, 9]))).toThrow("not a zstd frame")
    expect(() => zstdFrameLength(Uint8Array.from([...header, 0x20, 4, 0x07, 0, 0]))).toThrow("reserved")
  })

  it("QC-CMP-07 QC-CMP-08 clusters of one frame or several are decoded where Node can, and refused with a reason where not", () => {
    const [first] = clusters
    if (first === undefined) throw new Error("no compressed cluster")
    const compress: unknown = Reflect.get(zlib, "zstdCompressSync")
    if (typeof compress !== "function") {
      expect(canDecompress(1)).toBe(false)
      expect(() => decompressCluster(first.stored, 4096, 1)).toThrow("Node.js 22.15")
      return
    }
    expect(canDecompress(1)).toBe(true)
    const data = Uint8Array.from({ length: 4096 }, (_, at) => at % 200)
    const frame = (part: Uint8Array): Uint8Array => compress(part) as Uint8Array
    expect(
      decompressCluster(Buffer.concat([frame(data.subarray(0, 1000)), frame(data.subarray(1000)), Buffer.alloc(300)]), 4096, 1),
    ).toEqual(data)
    expect(() => decompressCluster(frame(Buffer.alloc(4097)), 4096, 1)).toThrow()
    expect(() => decompressCluster(Buffer.concat([frame(data.subarray(0, 1000)), Buffer.alloc(300)]), 4096, 1)).toThrow()
  })
})

describe("deflate", () => {
  it("QC-CMP-06 a stream that yields far more than a cluster costs no more memory than a cluster", () => {
    const bomb = zlib.deflateRawSync(Buffer.alloc(64 << 20))
    const before = process.memoryUsage().arrayBuffers
    const cluster = decompressCluster(bomb, 65536, 0)
    expect([cluster.length, cluster.every((byte) => byte === 0)]).toEqual([65536, true])
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 << 20)
  })

  it("QC-CMP-08 what is no deflate stream is an error", () => {
    expect(() => decompressCluster(Uint8Array.of(0xff, 0xff, 0xff), 512, 0)).toThrow()
    expect(() => decompressCluster(new Uint8Array(0), 512, 0)).toThrow("ends after 0 of 512 bytes")
  })
})
