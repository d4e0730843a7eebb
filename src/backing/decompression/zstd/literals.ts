/** The literals of a compressed block: the bytes that are not copied from earlier output. RFC 8878, 3.1.1.3.1 */
import { DecompressionError } from "../decompression-error.ts"
import { decodeFourStreams, decodeOneStream } from "./huffman-streams.ts"
import { HuffmanTable } from "./huffman.ts"

const LITERALS_TYPE = { RAW: 0, RLE: 1, COMPRESSED: 2, TREELESS: 3 } as const
/** Bytes of the largest block. */
const MOST_LITERALS = 128 * 1024

export class Literals {
  /** The literals of the last block that was read: `count` bytes of `bytes` from `start` on. */
  bytes: Uint8Array
  view: DataView
  start = 0
  count = 0
  /** Tables that the last block described. */
  describedTables = 0
  readonly #decoded = new Uint8Array(MOST_LITERALS)
  readonly #decodedView = new DataView(this.#decoded.buffer)
  /** Kept for blocks that reuse the code of the block before. */
  readonly #table = new HuffmanTable()

  constructor() {
    this.bytes = this.#decoded
    this.view = this.#decodedView
  }

  /** Begins a frame, which has no earlier code. */
  reset(): void {
    this.#table.codeBits = 0
  }

  /**
   * Reads the section that begins at `start` and must end by `end`. Returns the position after it.
   * @throws DecompressionError
   */
  read(data: DataView, bytes: Uint8Array, start: number, end: number, mostBlock: number): number {
    const first = byteAt(data, start, end)
    const type = first & 3
    this.describedTables = type === LITERALS_TYPE.COMPRESSED ? 1 : 0
    if (type === LITERALS_TYPE.COMPRESSED || type === LITERALS_TYPE.TREELESS) {
      return this.#readCompressed(data, bytes, { start, end, mostBlock })
    }
    const headerLength = PLAIN_HEADER_LENGTHS[(first >>> 2) & 3] ?? 1
    const from = start + headerLength
    byteAt(data, from - 1, end)
    const header = headerLength === 1 ? first : data.getUint16(start, true) | (headerLength === 3 ? data.getUint8(start + 2) << 16 : 0)
    const count = this.#setCount(header >>> (headerLength === 1 ? 3 : 4), mostBlock)
    if (type === LITERALS_TYPE.RLE) {
      this.#useDecoded()
      this.#decoded.fill(byteAt(data, from, end), 0, count)
      return from + 1
    }
    if (from + count > end) throw tooShort()
    this.bytes = bytes
    this.view = data
    this.start = from
    return from + count
  }

  #readCompressed(data: DataView, bytes: Uint8Array, limits: { start: number; end: number; mostBlock: number }): number {
    const { start, end, mostBlock } = limits
    const first = data.getUint8(start)
    const sizeFormat = (first >>> 2) & 3
    const headerLength = sizeFormat === 3 ? 5 : sizeFormat === 2 ? 4 : 3
    const width = sizeFormat === 3 ? 18 : sizeFormat === 2 ? 14 : 10
    const from = start + headerLength
    byteAt(data, from - 1, end)
    // Two sizes of `width` bits each follow four bits; the second may reach beyond 32 bits.
    const low = data.getUint16(start, true) | (data.getUint8(start + 2) << 16)
    const high = headerLength === 3 ? 0 : headerLength === 4 ? data.getUint8(start + 3) : data.getUint16(start + 3, true)
    const header = high * 2 ** 24 + low
    const mask = 2 ** width
    const count = this.#setCount(Math.floor(header / 16) % mask, mostBlock)
    const stop = from + Math.floor(header / 16 / mask)
    if (stop > end) throw tooShort()
    const streams = (first & 3) === LITERALS_TYPE.COMPRESSED ? this.#table.read(data, bytes, from, stop) : from
    if (this.#table.codeBits === 0) throw new DecompressionError("a zstd block uses the Huffman table of a block that has none")
    this.#useDecoded()
    const source = { data, table: this.#table, output: this.#decoded }
    if (sizeFormat === 0) decodeOneStream(source, streams, stop, count)
    else decodeFourStreams(source, streams, stop, count)
    return stop
  }

  #setCount(count: number, mostBlock: number): number {
    if (count > mostBlock) throw new DecompressionError(`a zstd block has ${count} literals, of at most ${mostBlock}`)
    this.count = count
    return count
  }

  #useDecoded(): void {
    this.bytes = this.#decoded
    this.view = this.#decodedView
    this.start = 0
  }
}

const PLAIN_HEADER_LENGTHS = [1, 2, 1, 3] as const

function tooShort(): DecompressionError {
  return new DecompressionError("the literals of a zstd block end too early")
}

function byteAt(data: DataView, at: number, end: number): number {
  if (at >= end) throw tooShort()
  return data.getUint8(at)
}
