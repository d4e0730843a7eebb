/** Finite state entropy tables: reads their descriptions and builds them. RFC 8878, 4.1 */
import { DecompressionError } from "../decompression-error.ts"
import type { ForwardBits } from "./bits.ts"

const LOWEST_ACCURACY_LOG = 5
/** Symbols of the largest alphabet (match lengths), and some more that a description can name before it is refused. */
const MOST_SYMBOLS = 64
/** States of the largest table. */
const MOST_STATES = 512

/** Scratch memory of the builder, not used between calls. */
const counts = new Int16Array(MOST_SYMBOLS)
const following = new Uint16Array(MOST_SYMBOLS)
const symbols = new Uint8Array(MOST_STATES)

/** A table of 2^accuracyLog states. */
export class FseTable {
  /** For each state: `next << 16 | bits << 8 | symbol`. The next state is `next` plus the value of the next `bits` bits. */
  readonly entries: Int32Array
  accuracyLog = 0
  readonly #highestLog: number

  /** A table whose accuracy log is at most `highestLog`, which is at most 9. */
  constructor(highestLog: number) {
    this.entries = new Int32Array(1 << highestLog)
    this.#highestLog = highestLog
  }

  /** One state, which yields `symbol` and reads no bits. */
  setSingle(symbol: number): void {
    this.accuracyLog = 0
    this.entries[0] = symbol
  }

  /**
   * Builds the table that `bits` describe, of symbols from 0 to `highestSymbol`. RFC 8878, 4.1.1
   * @throws DecompressionError
   */
  read(bits: ForwardBits, highestSymbol: number): void {
    const accuracyLog = bits.read(4) + LOWEST_ACCURACY_LOG
    if (accuracyLog > this.#highestLog) throw new DecompressionError(`a zstd table has 2^${accuracyLog} states`)
    let left = 1 << accuracyLog
    let symbol = 0
    while (left > 0) {
      if (symbol > highestSymbol) throw new DecompressionError("a zstd table has too many symbols")
      const count = readCount(bits, left)
      counts[symbol++] = count
      left -= Math.abs(count)
      if (count === 0) symbol = readZeroes(bits, symbol, highestSymbol)
    }
    this.#build(accuracyLog, symbol)
  }

  /** Builds the table of these counts, whose sum is 2^accuracyLog; a count of -1 is less than one, and has one state. */
  build(accuracyLog: number, symbolCounts: readonly number[]): void {
    counts.set(symbolCounts)
    this.#build(accuracyLog, symbolCounts.length)
  }

  #build(accuracyLog: number, symbolCount: number): void {
    const size = 1 << accuracyLog
    spreadSymbols(size, symbolCount)
    const entries = this.entries
    for (let state = 0; state < size; state++) {
      const symbol = symbols[state] ?? 0
      const place = following[symbol] ?? 0
      following[symbol] = place + 1
      const bits = accuracyLog - (31 - Math.clz32(place))
      entries[state] = (((place << bits) - size) << 16) | (bits << 8) | symbol
    }
    this.accuracyLog = accuracyLog
  }
}

/** The count of one symbol, if `left` states have no symbol yet. Small values take one bit less if they stay unambiguous. */
function readCount(bits: ForwardBits, left: number): number {
  const width = 32 - Math.clz32(left + 1)
  const value = bits.peek(width)
  const short = value & ((1 << (width - 1)) - 1)
  const firstLong = (1 << width) - 2 - left
  if (short < firstLong) {
    bits.skip(width - 1)
    return short - 1
  }
  bits.skip(width)
  return (value < 1 << (width - 1) ? value : value - firstLong) - 1
}

/** After a count of zero: reads how many more symbols have a count of zero, in steps of up to three. Returns the next symbol. */
function readZeroes(bits: ForwardBits, from: number, highestSymbol: number): number {
  let symbol = from
  for (;;) {
    const zeroes = bits.read(2)
    if (symbol + zeroes > highestSymbol + 1) throw new DecompressionError("a zstd table has too many symbols")
    counts.fill(0, symbol, symbol + zeroes)
    symbol += zeroes
    if (zeroes < 3) return symbol
  }
}

/** Assigns a symbol to each of `size` states: symbols of less than one state from the end, the others at even distances. */
function spreadSymbols(size: number, symbolCount: number): void {
  let high = size - 1
  for (let symbol = 0; symbol < symbolCount; symbol++) {
    const count = counts[symbol] ?? 0
    following[symbol] = Math.abs(count)
    if (count === -1) symbols[high--] = symbol
  }
  const step = (size >> 1) + (size >> 3) + 3
  let state = 0
  for (let symbol = 0; symbol < symbolCount; symbol++) {
    for (let left = counts[symbol] ?? 0; left > 0; left--) {
      symbols[state] = symbol
      do state = (state + step) & (size - 1)
      while (state > high) {
    }
      }
  }
}
