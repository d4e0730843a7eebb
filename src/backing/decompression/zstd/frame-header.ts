/** The header of a zstd frame and of its blocks, and the length of a frame. RFC 8878, 3.1 */
import { viewOf } from "../../bytes/fields.ts"
import { DecompressionError } from "../decompression-error.ts"

const MAGIC = 0xfd2f_b528
const SKIPPABLE_MAGIC = 0x184d_2a50
const DICTIONARY_ID_SIZES = [0, 1, 2, 4] as const
const CONTENT_SIZE_SIZES = [0, 2, 4, 8] as const
/** Larger windows are refused, as in libzstd, although a decoder into one buffer needs no window. */
const MOST_WINDOW = 2 ** 27
const MOST_BLOCK = 128 * 1024

export const BLOCK_TYPE = { RAW: 0, RLE: 1, COMPRESSED: 2, RESERVED: 3 } as const
export const BLOCK_HEADER_SIZE = 3
export const CHECKSUM_SIZE = 4

export interface FrameHeader {
  /** Bytes of the header, the magic number included. */
  readonly length: number
  /** Bytes of the frame's content, rounded above 2^53. Undefined if the frame does not say. */
  readonly contentSize: number | undefined
  readonly hasChecksum: boolean
  /** The most bytes of one block, stored or decompressed. */
  readonly mostBlock: number
}

/** The error of reads beyond the end of the data. */
function tooShort(): DecompressionError {
  return new DecompressionError("the compressed data ends inside a zstd frame")
}

/** @throws DecompressionError unless `data` has `length` bytes from `at` on */
export function checkLeft(data: DataView, at: number, length: number): void {
  if (length > data.byteLength - at) throw tooShort()
}

/** Bytes of the skippable frame at `at`, or 0 if there is none. @throws DecompressionError when the frame is cut off */
export function skippableLength(data: DataView, at: number): number {
  checkLeft(data, at, 4)
  if ((data.getUint32(at, true) & 0xffff_fff0) !== SKIPPABLE_MAGIC) return 0
  checkLeft(data, at, 8)
  const length = 8 + data.getUint32(at + 4, true)
  checkLeft(data, at, length)
  return length
}

/**
 * Reads the frame header at `at`.
 * @throws DecompressionError when there is none, or it is cut off, or needs an unsupported feature
 */
export function readFrameHeader(data: DataView, at: number): FrameHeader {
  checkLeft(data, at, 5)
  if (data.getUint32(at, true) !== MAGIC) throw new DecompressionError("the compressed data is not a zstd frame")
  const descriptor = data.getUint8(at + 4)
  if ((descriptor & 0x08) !== 0) throw new DecompressionError("a reserved bit of a zstd frame is set")
  const isSingleSegment = (descriptor & 0x20) !== 0
  const sizeFlag = descriptor >>> 6
  const sizeLength = sizeFlag === 0 && isSingleSegment ? 1 : (CONTENT_SIZE_SIZES[sizeFlag] ?? 0)
  const dictionaryAt = at + (isSingleSegment ? 5 : 6)
  const dictionaryLength = DICTIONARY_ID_SIZES[descriptor & 3] ?? 0
  const length = dictionaryAt + dictionaryLength + sizeLength - at
  checkLeft(data, at, length)
  for (let index = 0; index < dictionaryLength; index++) {
    if (data.getUint8(dictionaryAt + index) !== 0) throw new DecompressionError("the zstd frame needs a dictionary")
  }
  const contentSize = readContentSize(data, dictionaryAt + dictionaryLength, sizeLength)
  const windowSize = isSingleSegment ? (contentSize ?? 0) : readWindowSize(data.getUint8(at + 5))
  if (!isSingleSegment && windowSize > MOST_WINDOW) throw new DecompressionError(`a zstd frame has a window of ${windowSize} bytes`)
  return { length, contentSize, hasChecksum: (descriptor & 0x04) !== 0, mostBlock: Math.min(windowSize, MOST_BLOCK) }
}

function readContentSize(data: DataView, at: number, length: number): number | undefined {
  switch (length) {
    case 0: return undefined
    case 1: return data.getUint8(at)
    case 2: return data.getUint16(at, true) + 256
    case 4: return data.getUint32(at, true)
    default: return data.getUint32(at + 4, true) * 2 ** 32 + data.getUint32(at, true)
  }
}

/** RFC 8878, 3.1.1.1.2 */
function readWindowSize(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >>> 3))
  return base + (base / 8) * (descriptor & 7)
}

/** The header of the block at `at`: bit 0 marks the last block, bits 1 and 2 are the type, the others the size. */
export function readBlockHeader(data: DataView, at: number): number {
  checkLeft(data, at, BLOCK_HEADER_SIZE)
  return data.getUint16(at, true) | (data.getUint8(at + 2) << 16)
}

/**
 * Bytes of the zstd frame at the start of `data`, skippable or not, without decompressing it.
 * @throws DecompressionError when there is no whole frame
 */
export function zstdFrameLength(bytes: Uint8Array): number {
  const data = viewOf(bytes)
  const skippable = skippableLength(data, 0)
  if (skippable > 0) return skippable
  const { length, hasChecksum } = readFrameHeader(data, 0)
  let at = length
  for (let isLast = false; !isLast;) {
    const block = readBlockHeader(data, at)
    const type = (block >>> 1) & 3
    if (type === BLOCK_TYPE.RESERVED) throw new DecompressionError("a zstd block has a reserved type")
    at += BLOCK_HEADER_SIZE + (type === BLOCK_TYPE.RLE ? 1 : block >>> 3)
    isLast = (block & 1) !== 0
  }
  at += hasChecksum ? CHECKSUM_SIZE : 0
  checkLeft(data, at, 0)
  return at
}
