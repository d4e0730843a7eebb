/** Compressed clusters: raw deflate and zstd streams. The only file of qcow2 that uses a module of Node's. [QCOW2] "Compressed clusters" */
import * as zlib from "node:zlib"
import { viewOf } from "../qcow2/format/bytes.ts"
import { COMPRESSION_TYPE } from "../qcow2/format/spec.ts"

/** A symbol of deflate takes a bit at least and yields 258 bytes at most: so much can come out of one byte more of input. */
const MOST_PER_INPUT_BYTE = 8 * 258

/** zstd came to node:zlib with Node 22.15; the types of Node 20 do not know it. */
type ZstdDecompress = (input: Uint8Array, options: { readonly maxOutputLength: number }) => Uint8Array
const zstdDecompress: ZstdDecompress | undefined = findZstd()

function findZstd(): ZstdDecompress | undefined {
  const found: unknown = Reflect.get(zlib, "zstdDecompressSync")
  return typeof found === "function" ? (found as ZstdDecompress) : undefined
}

/** Whether clusters of this compression type can be read by the Node that runs this. */
export function canDecompress(compressionType: number): boolean {
  return compressionType === COMPRESSION_TYPE.ZLIB || zstdDecompress !== undefined
}

/** The first `clusterSize` bytes that `stored` decompresses to; what follows the stream is ignored. Throws an Error that says what is wrong. */
export function decompressCluster(stored: Uint8Array, clusterSize: number, compressionType: number): Uint8Array {
  const cluster = compressionType === COMPRESSION_TYPE.ZSTD ? inflateZstd(stored, clusterSize) : inflateDeflate(stored, clusterSize)
  if (cluster.length < clusterSize) throw new Error(`the compressed data ends after ${cluster.length} of ${clusterSize} bytes`)
  return cluster.length === clusterSize ? cluster : cluster.subarray(0, clusterSize)
}

/**
 * Streams are made with a window of 4 KiB, yet other readers accept any, so the largest is allowed (QC-CMP-05). The usual stream yields a cluster and ends.
 * One that goes on behind it, or is followed by what is no deflate data, is fine as well (QC-CMP-06), but then Node throws and gives nothing.
 */
function inflateDeflate(stored: Uint8Array, clusterSize: number): Uint8Array {
  try {
    return inflatePart(stored, clusterSize)
  } catch (error) {
    return inflateBeginning(stored, clusterSize) ?? fail(error)
  }
}

function fail(error: unknown): never {
  throw error
}

/** Inflates what it can: a stream that is cut off yields what came before. Room is left for what one byte of input may yield beyond a cluster. */
function inflatePart(stored: Uint8Array, clusterSize: number): Uint8Array {
  const most = clusterSize + MOST_PER_INPUT_BYTE
  return zlib.inflateRawSync(stored, { windowBits: 15, chunkSize: most, maxOutputLength: most, finishFlush: zlib.constants.Z_SYNC_FLUSH })
}

/** Finds the shortest input that yields a cluster, by halving: more input yields more, up to where it is too much or no deflate data. */
function inflateBeginning(stored: Uint8Array, clusterSize: number): Uint8Array | undefined {
  let tooShort = 0
  let tooLong = stored.length
  while (tooLong - tooShort > 1) {
    const middle = (tooShort + tooLong) >>> 1
    try {
      const output = inflatePart(stored.subarray(0, middle), clusterSize)
      if (output.length >= clusterSize) return output
      tooShort = middle
    } catch {
      tooLong = middle
    }
  }
  return undefined
}

/** Decodes frame after frame until a cluster is full; it must end with a frame (QC-CMP-07). */
function inflateZstd(stored: Uint8Array, clusterSize: number): Uint8Array {
  if (zstdDecompress === undefined) throw new Error("zstd compression needs Node.js 22.15 or later")
  const parts: Uint8Array[] = []
  let produced = 0
  let at = 0
  while (produced < clusterSize) {
    const length = zstdFrameLength(stored.subarray(at))
    const part = zstdDecompress(stored.subarray(at, at + length), { maxOutputLength: clusterSize - produced })
    if (part.length === 0 && length === 0) throw new Error("the compressed data makes no progress")
    parts.push(part)
    produced += part.length
    at += length
  }
  const [only] = parts
  if (parts.length === 1 && only !== undefined) return only
  const cluster = new Uint8Array(produced)
  let position = 0
  for (const part of parts) {
    cluster.set(part, position)
    position += part.length
  }
  return cluster
}

const ZSTD_MAGIC = 0xfd2fb528
const ZSTD_SKIPPABLE_MAGIC = 0x184d2a50
const ZSTD_DICTIONARY_ID_SIZES = [0, 1, 2, 4]
const ZSTD_CONTENT_SIZE_SIZES = [0, 2, 4, 8]
const ZSTD_BLOCK_RLE = 1
const ZSTD_BLOCK_RESERVED = 3

/** Bytes of the zstd frame at the start of `data`: the decoder of Node refuses input that goes on after it. Layout: RFC 8878, 3.1. Throws when it is cut off. */
export function zstdFrameLength(data: Uint8Array): number {
  const view = viewOf(data)
  try {
    const magic = view.getUint32(0, true)
    if ((magic & 0xfffffff0) >>> 0 === ZSTD_SKIPPABLE_MAGIC) return inside(data, 8 + view.getUint32(4, true))
    if (magic !== ZSTD_MAGIC) throw new Error("the compressed data is no zstd frame")
    const descriptor = view.getUint8(4)
    const singleSegment = (descriptor & 0x20) !== 0
    const contentSizeFlag = descriptor >>> 6
    const contentSize = contentSizeFlag === 0 && singleSegment ? 1 : (ZSTD_CONTENT_SIZE_SIZES[contentSizeFlag] ?? 0)
    let at = 5 + (singleSegment ? 0 : 1) + (ZSTD_DICTIONARY_ID_SIZES[descriptor & 3] ?? 0) + contentSize
    for (;;) {
      const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16)
      const type = (header >>> 1) & 3
      if (type === ZSTD_BLOCK_RESERVED) throw new Error("the compressed data has a block of a reserved type")
      at += 3 + (type === ZSTD_BLOCK_RLE ? 1 : header >>> 3)
      if ((header & 1) !== 0) break
    }
    return inside(data, at + ((descriptor & 4) !== 0 ? 4 : 0))
  } catch (error) {
    if (error instanceof RangeError) throw new Error("the compressed data ends inside a zstd frame", { cause: error })
    throw error
  }
}

function inside(data: Uint8Array, length: number): number {
  if (length > data.length) throw new RangeError("beyond the data")
  return length
}
