/** Decompresses clusters with node:zlib: raw deflate and zstd streams. [QCOW2] "Cluster mapping" */
import * as zlib from "node:zlib"
import { viewOf } from "../qcow2/format/bytes.ts"
import { DecompressionError, type Decompressor } from "../qcow2/format/compression.ts"
import { COMPRESSION_TYPE } from "../qcow2/format/spec.ts"

/** One byte of deflate input ends at most 8 symbols, and a symbol yields at most 258 bytes. */
const MOST_PER_INPUT_BYTE = 8 * 258

/** node:zlib has zstd since Node 22.15; the types of Node 20 do not list it. */
type ZstdDecompress = (input: Uint8Array, options: { readonly maxOutputLength: number }) => Uint8Array
const zstdDecompress: ZstdDecompress | undefined = findZstd()

function findZstd(): ZstdDecompress | undefined {
  const found: unknown = Reflect.get(zlib, "zstdDecompressSync")
  return typeof found === "function" ? (found as ZstdDecompress) : undefined
}

/** Decompresses what the Node that runs this can. */
export const nodeDecompressor: Decompressor = {
  missing: (compressionType) => (canDecompress(compressionType) ? undefined : "zstd, which needs Node.js 22.15 or later"),
  decompress: decompressCluster,
}

/** Whether the Node that runs this can read clusters of `compressionType`. */
export function canDecompress(compressionType: number): boolean {
  return compressionType === COMPRESSION_TYPE.ZLIB || zstdDecompress !== undefined
}

/** `Decompressor.decompress`. */
export function decompressCluster(stored: Uint8Array, clusterSize: number, compressionType: number): Uint8Array {
  const cluster = compressionType === COMPRESSION_TYPE.ZSTD ? inflateZstd(stored, clusterSize) : inflateDeflate(stored, clusterSize)
  if (cluster.length < clusterSize) throw new DecompressionError(`the compressed data ends after ${cluster.length} of ${clusterSize} bytes`)
  return cluster.length === clusterSize ? cluster : cluster.subarray(0, clusterSize)
}

/**
 * Writers use a window of 4 KiB, but other readers accept any, so the largest is allowed (QC-CMP-05). The usual stream yields one cluster
 * and ends. A stream that continues, or is followed by other data, is valid too (QC-CMP-06), but Node then throws and returns nothing.
 */
function inflateDeflate(stored: Uint8Array, clusterSize: number): Uint8Array {
  const whole = inflatePart(stored, clusterSize)
  if (!(whole instanceof DecompressionError)) return whole
  const beginning = inflateBeginning(stored, clusterSize)
  if (beginning === undefined) throw whole
  return beginning
}

/**
 * Inflates what it can: a stream that is cut off yields what came before. Leaves room for what one byte of input may yield beyond a
 * cluster.
 */
function inflatePart(stored: Uint8Array, clusterSize: number): Uint8Array | DecompressionError {
  const most = clusterSize + MOST_PER_INPUT_BYTE
  try {
    return zlib.inflateRawSync(stored, { windowBits: 15, chunkSize: most, maxOutputLength: most, finishFlush: zlib.constants.Z_SYNC_FLUSH })
  } catch (error) {
    return zlibFailure(error)
  }
}

/** What node:zlib throws about its input has a code. */
function zlibFailure(error: unknown): DecompressionError {
  if (error instanceof Error && "code" in error) return new DecompressionError(error.message, { cause: error })
  throw error
}

/** Finds the shortest input that yields a cluster, by halving: more input yields more, until it is too much or not deflate data. */
function inflateBeginning(stored: Uint8Array, clusterSize: number): Uint8Array | undefined {
  let tooShort = 0
  let tooLong = stored.length
  while (tooLong - tooShort > 1) {
    const middle = (tooShort + tooLong) >>> 1
    const output = inflatePart(stored.subarray(0, middle), clusterSize)
    if (output instanceof DecompressionError) tooLong = middle
    else if (output.length >= clusterSize) return output
    else tooShort = middle
  }
  return undefined
}

/** Decodes frame after frame until a cluster is full; the cluster must end with a frame (QC-CMP-07). */
function inflateZstd(stored: Uint8Array, clusterSize: number): Uint8Array {
  const parts: Uint8Array[] = []
  let produced = 0
  let at = 0
  while (produced < clusterSize) {
    const length = zstdFrameLength(stored.subarray(at))
    const part = inflateZstdFrame(stored.subarray(at, at + length), clusterSize - produced)
    parts.push(part)
    produced += part.length
    at += length
  }
  const [only] = parts
  return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts)
}

function inflateZstdFrame(frame: Uint8Array, maxOutputLength: number): Uint8Array {
  if (zstdDecompress === undefined) throw new DecompressionError("zstd compression needs Node.js 22.15 or later")
  try {
    return zstdDecompress(frame, { maxOutputLength })
  } catch (error) {
    throw zlibFailure(error)
  }
}

const ZSTD_MAGIC = 0xfd2f_b528
const ZSTD_SKIPPABLE_MAGIC = 0x184d_2a50
const ZSTD_DICTIONARY_ID_SIZES = [0, 1, 2, 4]
const ZSTD_CONTENT_SIZE_SIZES = [0, 2, 4, 8]
const ZSTD_BLOCK_RLE = 1
const ZSTD_BLOCK_RESERVED = 3

/**
 * Bytes of the zstd frame at the start of `data`: Node's decoder refuses input that continues after it. Layout: RFC 8878, 3.1.
 * @throws DecompressionError when it is not a frame, or not a whole one
 */
export function zstdFrameLength(data: Uint8Array): number {
  const view = viewOf(data)
  try {
    const magic = view.getUint32(0, true)
    if ((magic & 0xffff_fff0) >>> 0 === ZSTD_SKIPPABLE_MAGIC) return inside(data, 8 + view.getUint32(4, true))
    if (magic !== ZSTD_MAGIC) throw new DecompressionError("the compressed data is not a zstd frame")
    const descriptor = view.getUint8(4)
    const singleSegment = (descriptor & 0x20) !== 0
    const contentSizeFlag = descriptor >>> 6
    const contentSize = contentSizeFlag === 0 && singleSegment ? 1 : (ZSTD_CONTENT_SIZE_SIZES[contentSizeFlag] ?? 0)
    let at = 5 + (singleSegment ? 0 : 1) + (ZSTD_DICTIONARY_ID_SIZES[descriptor & 3] ?? 0) + contentSize
    for (;;) {
      const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16)
      const type = (header >>> 1) & 3
      if (type === ZSTD_BLOCK_RESERVED) throw new DecompressionError("the compressed data has a block of a reserved type")
      at += 3 + (type === ZSTD_BLOCK_RLE ? 1 : header >>> 3)
      if ((header & 1) !== 0) break
    }
    return inside(data, at + ((descriptor & 4) !== 0 ? 4 : 0))
  } catch (error) {
    if (error instanceof RangeError) throw new DecompressionError("the compressed data ends inside a zstd frame", { cause: error })
    throw error
  }
}

function inside(data: Uint8Array, length: number): number {
  if (length > data.length) throw new RangeError("beyond the data")
  return length
}
