/** pageDecompressor: decompresses clusters in plain JavaScript, in a page as well as in Node. */
import { DecompressionError } from "../decompression/decompression-error.ts"
import { inflateRaw } from "../decompression/inflate/inflate.ts"
import { decompressZstd } from "../decompression/zstd/zstd.ts"
import type { Decompressor } from "./format/compression.ts"
import { COMPRESSION_TYPE } from "./format/spec.ts"

/**
 * Does not use a page's `DecompressionStream`, which is asynchronous, refuses bytes after the end of a stream, has no zstd, and takes five
 * times as long for a cluster of 64 KiB (measured in Node).
 */
export const pageDecompressor: Decompressor = {
  decompress(stored, clusterSize, compressionType) {
    const cluster = new Uint8Array(clusterSize)
    const length = compressionType === COMPRESSION_TYPE.ZSTD ? decompressZstd(stored, cluster) : inflateRaw(stored, cluster)
    if (length < clusterSize) throw new DecompressionError(`the compressed data ends after ${length} of ${clusterSize} bytes`)
    return cluster
  },
}
