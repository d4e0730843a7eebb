/**
 * nodeDecompressor: decompresses clusters by node:zlib if that is faster, and by `pageDecompressor` if node:zlib cannot or fails;
 * compresses them by node:zlib. [QCOW2] "Cluster mapping"
 */
import * as zlib from "node:zlib"
import { BackingError } from "../backing.ts"
import { DecompressionError } from "../decompression/decompression-error.ts"
import { zstdFrameLength } from "../decompression/zstd/frame-header.ts"
import type { Decompressor } from "../qcow2/format/compression.ts"
import { COMPRESSION_TYPE } from "../qcow2/format/spec.ts"
import { pageDecompressor } from "../qcow2/page-decompressor.ts"

/** Room beyond a cluster: node:zlib needs a second buffer for a stream that ends where its first one does. */
const SPARE = 64

/** node:zlib has zstd since Node 22.15; the types of Node 20 do not list it. */
type ZstdDecompress = (input: Uint8Array, options: { readonly maxOutputLength: number }) => Uint8Array
const zstdDecompress: ZstdDecompress | undefined = findZstd()

function findZstd(): ZstdDecompress | undefined {
  const found: unknown = Reflect.get(zlib, "zstdDecompressSync")
  return typeof found === "function" ? (found as ZstdDecompress) : undefined
}

type ZstdCompress = (input: Uint8Array) => Uint8Array
const zstdCompress = Reflect.get(zlib, "zstdCompressSync") as ZstdCompress | undefined

/** As QEMU does: readers of its making inflate with a window of 4 KiB (QC-CMP-05). */
function deflateOptions(cluster: Uint8Array): zlib.ZlibOptions {
  return { windowBits: 12, memLevel: 9, chunkSize: Math.max(cluster.length, 64) }
}

export const nodeDecompressor: Decompressor = {
  decompress(stored, clusterSize, compressionType) {
    const cluster = compressionType === COMPRESSION_TYPE.ZSTD ? tryZstd(stored, clusterSize) : tryInflate(stored, clusterSize)
    if (cluster === undefined || cluster.length < clusterSize) return pageDecompressor.decompress(stored, clusterSize, compressionType)
    return cluster.length === clusterSize ? cluster : cluster.subarray(0, clusterSize)
  },
  compress(cluster, compressionType) {
    return compressionType === COMPRESSION_TYPE.ZSTD ? writeZstd(cluster) : zlib.deflateRawSync(cluster, deflateOptions(cluster))
  },
  async compressLater(cluster, compressionType) {
    if (compressionType === COMPRESSION_TYPE.ZSTD) return writeZstd(cluster)
    return await new Promise((resolve, reject) => {
      zlib.deflateRaw(cluster, deflateOptions(cluster), (error, stream) => (error === null ? resolve(stream) : reject(error)))
    })
  },
}

/**
 * The usual stream yields one cluster and ends, or ends without its last block. One that continues is valid too (QC-CMP-06), but node:zlib
 * then throws and returns nothing. Writers use a window of 4 KiB, but other readers accept any, so the largest is allowed (QC-CMP-05).
 */
function tryInflate(stored: Uint8Array, clusterSize: number): Uint8Array | undefined {
  const most = clusterSize + SPARE
  const finishFlush = zlib.constants.Z_SYNC_FLUSH
  return unlessRefused(() => zlib.inflateRawSync(stored, { windowBits: 15, chunkSize: most, maxOutputLength: most, finishFlush }))
}

/** The usual cluster is one frame (QC-CMP-07). node:zlib takes a frame that is cut off for a whole one, so its length is found first. */
function tryZstd(stored: Uint8Array, clusterSize: number): Uint8Array | undefined {
  const decompress = zstdDecompress
  if (decompress === undefined) return undefined
  return unlessRefused(() => decompress(stored.subarray(0, zstdFrameLength(stored)), { maxOutputLength: clusterSize }))
}

function writeZstd(cluster: Uint8Array): Uint8Array {
  if (zstdCompress !== undefined) return zstdCompress(cluster)
  const remedy = "use Node 22.15 or later, or an image with the compression type zlib"
  throw new BackingError("unsupported", `this version of Node does not write zstd, the image's compression type; ${remedy}`)
}

/** Errors of node:zlib about its input have a code. */
function unlessRefused(decompress: () => Uint8Array): Uint8Array | undefined {
  try {
    return decompress()
  } catch (error) {
    if (error instanceof DecompressionError || (error instanceof Error && "code" in error)) return undefined
    throw error
  }
}
