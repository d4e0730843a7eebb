/** Huffman codes of literals: reads their description, and builds the table that decodes them. RFC 8878, 4.2.1 */
import { DecompressionError } from "../decompression-error.ts"
import { ForwardBits, peekBackward, startBackward } from "./bits.ts"
import { FseTable } from "./fse.ts"

/** Bits of the longest code. */
const MOST_CODE_BITS = 11
/** From this header byte on, weights have four bits each, and the byte minus this is the number of weights minus one. */
const DIRECT_WEIGHTS = 128
/** The last symbol's weight follows from the others. */
const MOST_WEIGHTS = 255
const WEIGHT_ACCURACY_LOG = 6
const HIGHEST_WEIGHT_SYMBOL = 12

/** Weights of the symbols of the table that is being built. */
const weights = new Uint8Array(MOST_WEIGHTS + 1)
const startOfWeight = new Uint16Array(MOST_CODE_BITS + 2)

export class HuffmanTable {
  /** For each value of the next `codeBits` bits: `bits of the code << 8 | symbol`. */
  readonly entries = new Uint16Array(1 << MOST_CODE_BITS)
  /** Bits of the longest code, or 0 without a table. */
  codeBits = 0
  readonly #weightTable = new FseTable(WEIGHT_ACCURACY_LOG)

  /**
   * Builds the table that is described at `start`. The description must end by `end`. Returns the position after it.
   * @throws DecompressionError
   */
  read(data: DataView, bytes: Uint8Array, start: number, end: number): number {
    this.codeBits = 0
    const header = start < end ? data.getUint8(start) : 0
    const from = start + 1
    const length = header < DIRECT_WEIGHTS ? header : (header - DIRECT_WEIGHTS + 2) >> 1
    if (header === 0 || from + length > end) throw new DecompressionError("a zstd Huffman table ends too early")
    const weightCount = header < DIRECT_WEIGHTS
      ? this.#readPackedWeights(data, bytes, from, from + length)
      : readDirectWeights(bytes, from, header - DIRECT_WEIGHTS + 1)
    this.#build(weightCount)
    return from + length
  }

  /** Reads weights coded by finite state entropy, from two states in turn, until the stream has no bits for a next state. */
  #readPackedWeights(data: DataView, bytes: Uint8Array, start: number, end: number): number {
    const description = new ForwardBits(bytes, start, end)
    this.#weightTable.read(description, HIGHEST_WEIGHT_SYMBOL)
    const streamStart = description.finish()
    const { entries, accuracyLog } = this.#weightTable
    let position = startBackward(data, streamStart, end) - 2 * accuracyLog
    if (position < streamStart * 8) throw new DecompressionError("the weights of a zstd Huffman table end too early")
    let state = peekBackward(data, position + 2 * accuracyLog, accuracyLog)
    let other = peekBackward(data, position + accuracyLog, accuracyLog)
    for (let count = 0; count < MOST_WEIGHTS - 1;) {
      const entry = entries[state] ?? 0
      const bits = (entry >>> 8) & 0xff
      weights[count++] = entry & 0xff
      state = other
      other = (entry >>> 16) + peekBackward(data, position, bits)
      position -= bits
      if (position < streamStart * 8) {
        weights[count++] = (entries[state] ?? 0) & 0xff
        return count
      }
    }
    throw new DecompressionError("a zstd Huffman table has too many symbols")
  }

  /** Builds the table from all weights but the last. The longest codes come first, those of one length in the order of their symbols. */
  #build(weightCount: number): void {
    const codeBits = addLastWeight(weightCount)
    startOfWeight.fill(0)
    for (let symbol = 0; symbol <= weightCount; symbol++) {
      const weight = weights[symbol] ?? 0
      if (weight > 0) startOfWeight[weight + 1] = (startOfWeight[weight + 1] ?? 0) + (1 << (weight - 1))
    }
    for (let weight = 1; weight <= codeBits; weight++) {
      startOfWeight[weight + 1] = (startOfWeight[weight + 1] ?? 0) + (startOfWeight[weight] ?? 0)
    }
    for (let symbol = 0; symbol <= weightCount; symbol++) {
      const weight = weights[symbol] ?? 0
      if (weight === 0) continue
      const start = startOfWeight[weight] ?? 0
      const end = start + (1 << (weight - 1))
      this.entries.fill(((codeBits + 1 - weight) << 8) | symbol, start, end)
      startOfWeight[weight] = end
    }
    this.codeBits = codeBits
  }
}

function readDirectWeights(bytes: Uint8Array, from: number, count: number): number {
  for (let index = 0; index < count; index++) {
    const pair = bytes[from + (index >> 1)] ?? 0
    weights[index] = (index & 1) === 0 ? pair >>> 4 : pair & 15
  }
  return count
}

/** Adds the last weight after the first `count`, which completes the code. Returns the bits of the longest code. */
function addLastWeight(count: number): number {
  let sum = 0
  let longest = 0
  for (let symbol = 0; symbol < count; symbol++) {
    const weight = weights[symbol] ?? 0
    if (weight > MOST_CODE_BITS) throw new DecompressionError(`a zstd Huffman table has a weight of ${weight}`)
    sum += (1 << weight) >> 1
    longest += weight === 1 ? 1 : 0
  }
  const codeBits = 32 - Math.clz32(sum)
  const missing = (1 << codeBits) - sum
  if (codeBits > MOST_CODE_BITS || sum === 0 || (missing & (missing - 1)) !== 0) {
    throw new DecompressionError("the weights of a zstd Huffman table do not make a code")
  }
  const last = 32 - Math.clz32(missing)
  weights[count] = last
  // The longest codes come in pairs.
  if (longest + (last === 1 ? 1 : 0) < 2) throw new DecompressionError("a zstd Huffman table has no codes of the greatest length")
  return codeBits
}
