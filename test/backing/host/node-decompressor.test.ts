/** Clusters through both decompressors: the one that needs nothing of the platform, and the one that prefers node:zlib. */
import * as zlib from "node:zlib"
import { describe, expect, it } from "vitest"
import { DecompressionError } from "../../../src/backing/decompression/decompression-error.ts"
import { nodeDecompressor } from "../../../src/backing/host/node-decompressor.ts"
import { pageDecompressor } from "../../../src/backing/qcow2/page-decompressor.ts"
import { makeContent } from "../decompression/contents.ts"
import { goldenBytes } from "../../support/golden.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { goldenFrames } from "../decompression/zstd-frames.ts"

const [ZLIB, ZSTD] = [0, 1]

/** The stored bytes of each compressed cluster of a golden image. */
function storedClusters(name: string): Uint8Array[] {
  const image = new Qcow2Bytes(goldenBytes(name))
  const x = BigInt(62 - (Math.log2(image.clusterSize) - 8))
  const found = []
  for (let offset = 0; offset < image.size; offset += image.clusterSize) {
    const entry = image.l2(offset)
    if (entry >> 62n !== 1n) continue
    const host = Number(entry & ((1n << x) - 1n))
    const sectors = Number((entry & ((1n << 62n) - 1n)) >> x)
    found.push(image.bytes.subarray(host, host + (sectors + 1) * 512 - (host % 512)))
  }
  return found
}

const joined = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts))
const frameOf = (name: string): { frame: Uint8Array; content: Uint8Array } => {
  const found = goldenFrames.find((golden) => golden.name === name)
  if (found === undefined) throw new Error(`no frame ${name}`)
  return found
}

describe.each([["pageDecompressor", pageDecompressor], ["nodeDecompressor", nodeDecompressor]] as const)("%s", (_, decompressor) => {
  it.each([
    ["zlib-4k.qcow2", ZLIB], ["zstd-4k.qcow2", ZSTD],
  ] as const)("QC-CMP-06 QC-CMP-07 decompresses %s as QEMU stored it", (name, type) => {
    const clusters = storedClusters(name)
    expect(clusters.length).toBeGreaterThan(0)
    for (const stored of clusters) {
      const cluster = decompressor.decompress(stored, 4096, type)
      expect(cluster).toHaveLength(4096)
      expect(() => decompressor.decompress(stored.subarray(0, 10), 4096, type)).toThrow(DecompressionError)
    }
  })

  it("QC-CMP-06 deflate: a stream may go on behind the output, lack its end, or be followed by other data", () => {
    const content = makeContent("text", 100_000, 3)
    const stream = zlib.deflateRawSync(content)
    const cluster = content.subarray(0, 65536)
    for (const stored of [
      stream, zlib.deflateRawSync(cluster), joined(zlib.deflateRawSync(cluster), makeContent("random", 600, 4)),
      zlib.deflateRawSync(content.subarray(0, 65536 + 10)), zlib.deflateRawSync(cluster, { finishFlush: zlib.constants.Z_SYNC_FLUSH }),
      joined(stream.subarray(0, stream.length - 2000), new Uint8Array(2000).fill(0xff)),
    ]) {
      expect(Buffer.compare(decompressor.decompress(stored, 65536, ZLIB), cluster)).toBe(0)
    }
    expect(() => decompressor.decompress(zlib.deflateRawSync(content.subarray(0, 65535)), 65536, ZLIB)).toThrow("ends after 65535 of 65536")
    expect(() => decompressor.decompress(new Uint8Array(0), 512, ZLIB)).toThrow(DecompressionError)
    expect(() => decompressor.decompress(Uint8Array.of(0xff, 0xff, 0xff), 512, ZLIB)).toThrow(DecompressionError)
  })

  it("a decompression bomb yields no more than a cluster", () => {
    const bomb = zlib.deflateRawSync(new Uint8Array(4 << 20))
    const cluster = decompressor.decompress(bomb, 65536, ZLIB)
    expect(cluster).toHaveLength(65536)
    expect(cluster.buffer.byteLength).toBeLessThan(1 << 17)
    expect(cluster.every((byte) => byte === 0)).toBe(true)
  })

  it("QC-CMP-07 zstd: whole frames are taken, with other data behind them; a part of a frame, or one that is cut off, is refused", () => {
    const [one, other] = [frameOf("cluster-text-1"), frameOf("tiny-text")]
    const both = joined(other.content, one.content)
    const padding = makeContent("random", 300, 9)
    expect(Buffer.compare(decompressor.decompress(joined(one.frame, padding), 4096, ZSTD), one.content)).toBe(0)
    expect(Buffer.compare(decompressor.decompress(joined(other.frame, one.frame, padding), both.length, ZSTD), both)).toBe(0)
    expect(() => decompressor.decompress(joined(one.frame, padding), 4095, ZSTD)).toThrow(DecompressionError)
    expect(() => decompressor.decompress(joined(one.frame, padding), 4097, ZSTD)).toThrow(DecompressionError)
    expect(() => decompressor.decompress(one.frame, 4097, ZSTD)).toThrow("ends after 4096 of 4097 bytes")
    expect(() => decompressor.decompress(one.frame.subarray(0, one.frame.length - 1), 4096, ZSTD)).toThrow("ends inside")
    const checked = frameOf("literals-raw")
    const cut = checked.frame.subarray(0, checked.frame.length - 4)
    expect(() => decompressor.decompress(cut, checked.content.length, ZSTD)).toThrow("ends inside")
  })
})
