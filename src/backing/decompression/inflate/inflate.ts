/** inflateRaw decompresses a raw deflate stream (RFC 1951, without header and checksum) into a buffer, in bounded time and memory. */
import { viewOf } from "../../bytes/fields.ts"
import { DecompressionError } from "../decompression-error.ts"
import { Effort } from "../effort.ts"
import { type InflateState, inflateCodes } from "./codes.ts"
import { distanceTable, fixedDistanceTable, fixedLengthTable, lengthTable, ORDER_OF_LENGTHS, precodeTable } from "./tables.ts"
import { ENTRY } from "./huffman-table.ts"

const BLOCK_TYPE = { STORED: 0, FIXED: 1, DYNAMIC: 2 } as const
/** Positions are counted in bits, as 31-bit numbers. */
const MOST_INPUT = 2 ** 27
/** Bytes that the loops may read beyond the end of the input, because they check the position only once for each symbol. */
const PADDING = 16
const MOST_LENGTHS = 286
const MOST_DISTANCES = 30

const END_OF_BLOCK = 256

/** The charge for a block. zlib writes blocks of at least 127 bytes (memLevel 1), but also empty ones when its user flushes. */
const BLOCK_EFFORT = 16
/** The additional charge for a block with tables, which are worth it only for long blocks. */
const TABLES_EFFORT = 84

/** A copy of the input with zeroes after it, so that the loops need not check for the end. Grows to the longest input. */
let padded = new Uint8Array(0)
const codeLengths = new Uint8Array(320)

/**
 * Decompresses `input` into `output` until the output is full or the stream ends. Returns the number of bytes. The rest of the input is
 * ignored, and not checked.
 * @throws DecompressionError when the input is not deflate data, or ends before the stream ends or the output is full
 * @throws RangeError for an input above 128 MiB
 */
export function inflateRaw(input: Uint8Array, output: Uint8Array): number {
  if (input.length > MOST_INPUT) throw new RangeError(`inflateRaw: ${input.length} bytes is more than it can do`)
  if (padded.length < input.length + PADDING) padded = new Uint8Array(input.length + PADDING)
  padded.set(input)
  padded.fill(0, input.length, input.length + PADDING)
  const state: InflateState = {
    data: new DataView(padded.buffer), position: 0, end: input.length * 8, bytes: output,
    view: viewOf(output), length: 0,
  }
  const effort = new Effort(output.length)
  for (let isLast = false; !isLast && state.length < output.length;) {
    isLast = readBits(state, 1) === 1
    inflateBlock(state, readBits(state, 2), effort)
  }
  return state.length
}

function inflateBlock(state: InflateState, type: number, effort: Effort): void {
  effort.spend(BLOCK_EFFORT)
  switch (type) {
    case BLOCK_TYPE.STORED:
      copyStored(state)
      return
    case BLOCK_TYPE.FIXED:
      inflateCodes(state, fixedLengthTable(), fixedDistanceTable())
      return
    case BLOCK_TYPE.DYNAMIC:
      effort.spend(TABLES_EFFORT)
      readTables(state)
      inflateCodes(state, lengthTable(), distanceTable())
      return
    default:
      throw new DecompressionError("a deflate block has a reserved type")
  }
}

/** The next `count` bits, at most 16. @throws DecompressionError when the input ends before */
function readBits(state: InflateState, count: number): number {
  const { data, position } = state
  if (position + count > state.end) throw new DecompressionError("the compressed data ends inside a deflate stream")
  const value = (data.getUint32(position >> 3, true) >>> (position & 7)) & ((1 << count) - 1)
  state.position = position + count
  return value
}

function copyStored(state: InflateState): void {
  state.position = (state.position + 7) & ~7
  const length = readBits(state, 16)
  if (readBits(state, 16) !== (length ^ 0xffff)) throw new DecompressionError("the length of a stored deflate block is damaged")
  const from = state.position >> 3
  const wanted = Math.min(length, state.bytes.length - state.length)
  if (from * 8 + wanted * 8 > state.end) throw new DecompressionError("the compressed data ends inside a deflate stream")
  state.bytes.set(new Uint8Array(state.data.buffer, from, wanted), state.length)
  state.length += wanted
  state.position += wanted * 8
}

/** Reads the codes that a block describes. RFC 1951, 3.2.7 */
function readTables(state: InflateState): void {
  const lengthCount = readBits(state, 5) + 257
  const distanceCount = readBits(state, 5) + 1
  const precodeCount = readBits(state, 4) + 4
  if (lengthCount > MOST_LENGTHS || distanceCount > MOST_DISTANCES) throw new DecompressionError("a deflate block has too many codes")
  codeLengths.fill(0, 0, ORDER_OF_LENGTHS.length)
  for (let index = 0; index < precodeCount; index++) codeLengths[ORDER_OF_LENGTHS[index] ?? 0] = readBits(state, 3)
  precodeTable().build(codeLengths, 0, ORDER_OF_LENGTHS.length, false)
  readCodeLengths(state, lengthCount + distanceCount)
  if (codeLengths[END_OF_BLOCK] === 0) throw new DecompressionError("a deflate block has no end")
  lengthTable().build(codeLengths, 0, lengthCount, true)
  distanceTable().build(codeLengths, lengthCount, distanceCount, true)
}

/** Reads the lengths of `count` codes, in which runs of equal lengths are shortened. */
function readCodeLengths(state: InflateState, count: number): void {
  const { entries, rootBits } = precodeTable()
  for (let index = 0; index < count;) {
    const word = state.data.getUint32(state.position >> 3, true) >>> (state.position & 7)
    const entry = entries[word & ((1 << rootBits) - 1)] ?? 0
    readBits(state, entry & ENTRY.BITS_MASK)
    const symbol = entry >>> ENTRY.VALUE_SHIFT
    if (symbol < 16) {
      codeLengths[index++] = symbol
      continue
    }
    if (symbol === 16 && index === 0) throw new DecompressionError("a deflate block repeats a length before the first")
    const value = symbol === 16 ? (codeLengths[index - 1] ?? 0) : 0
    const times = symbol === 16 ? 3 + readBits(state, 2) : symbol === 17 ? 3 + readBits(state, 3) : 11 + readBits(state, 7)
    if (index + times > count) throw new DecompressionError("a deflate block has too many codes")
    codeLengths.fill(value, index, index + times)
    index += times
  }
}
