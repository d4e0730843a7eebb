/** HuffmanTable decodes the codes of a deflate block, which are defined by their lengths alone. RFC 1951, 3.2.2 */
import { DecompressionError } from "../decompression-error.ts"

/** Bits of the longest code. */
const MOST_CODE_BITS = 15
/** Most symbols of one alphabet. */
const MOST_SYMBOLS = 288

/** Kinds of entries. LITERAL is 0, so that its test is the fastest. */
export const KIND = { LITERAL: 0, BASE: 1 << 9, END: 2 << 9, SUBTABLE: 3 << 9 } as const
export const KIND_MASK = 3 << 9
/** `bits of the code | extra bits << 5 | kind | value << 11`. A subtable's value is its start, its extra bits are the bits of its index. */
export const ENTRY = { BITS_MASK: 31, EXTRA_SHIFT: 5, EXTRA_MASK: 15, VALUE_SHIFT: 11 } as const
/** An entry that no code has. */
export const NO_CODE = KIND.END | (1 << ENTRY.VALUE_SHIFT)

const countOfLength = new Uint16Array(MOST_CODE_BITS + 1)
const nextOfLength = new Uint16Array(MOST_CODE_BITS + 2)
const sorted = new Uint16Array(MOST_SYMBOLS)

export class HuffmanTable {
  /** The root, indexed by the next `rootBits` bits, the first bit lowest, followed by the subtables of longer codes. */
  readonly entries: Int32Array
  rootBits = 1
  readonly #name: string
  readonly #mostRootBits: number
  /** The entry of each symbol, without the bits of its code. */
  readonly #symbols: Int32Array

  constructor(name: string, mostRootBits: number, symbols: Int32Array) {
    this.#name = name
    this.#mostRootBits = mostRootBits
    this.#symbols = symbols
    // The codes in a subtable of k bits are complete and include codes of k bits, so there are at least k + 1.
    const mostSubtables = Math.floor(symbols.length / (MOST_CODE_BITS - mostRootBits + 1))
    this.entries = new Int32Array((1 << mostRootBits) + (mostSubtables << (MOST_CODE_BITS - mostRootBits)))
  }

  /**
   * Builds the table of the codes whose lengths are `lengths[from .. from + count)`.
   * @throws DecompressionError when the lengths are invalid: a code must be complete, or, with `mayBeIncomplete`, a single code of one bit
   */
  build(lengths: Uint8Array, from: number, count: number, mayBeIncomplete: boolean): void {
    const longest = sortByLength(lengths, from, count)
    let left = 1
    for (let length = 1; length <= MOST_CODE_BITS; length++) {
      left = left * 2 - (countOfLength[length] ?? 0)
      if (left < 0) throw this.#refuse()
    }
    if (left > 0 && !(mayBeIncomplete && longest <= 1)) throw this.#refuse()
    const rootBits = Math.max(1, Math.min(longest, this.#mostRootBits))
    this.rootBits = rootBits
    if (left > 0) this.entries.fill(NO_CODE | 1, 0, 1 << rootBits)
    this.#fill(longest)
  }

  #refuse(): DecompressionError {
    return new DecompressionError(`the code of ${this.#name} in a deflate block is not a code`)
  }

  /** Gives the codes to the symbols, the shortest first; a code is stored with its first bit lowest. */
  #fill(longest: number): void {
    const { entries, rootBits } = this
    const symbols = this.#symbols
    let code = 0
    let at = 0
    let tableStart = 0
    let tableEnd = 1 << rootBits
    let root = -1
    let tableBits = rootBits
    for (let length = 1; length <= longest; length++) {
      for (let left = countOfLength[length] ?? 0; left > 0; left--) {
        if (length > rootBits && (code & ((1 << rootBits) - 1)) !== root) {
          root = code & ((1 << rootBits) - 1)
          tableStart = tableEnd
          tableBits = subtableBits(length, left, rootBits, longest)
          tableEnd += 1 << tableBits
          entries[root] = (tableStart << ENTRY.VALUE_SHIFT) | KIND.SUBTABLE | (tableBits << ENTRY.EXTRA_SHIFT) | rootBits
        }
        const entry = (symbols[sorted[at++] ?? 0] ?? NO_CODE) | length
        const dropped = length > rootBits ? rootBits : 0
        for (let index = code >>> dropped; index < 1 << tableBits; index += 1 << (length - dropped)) entries[tableStart + index] = entry
        code = nextCode(code, length)
      }
    }
  }
}

/** Sorts the symbols into `sorted` by the lengths of their codes. Returns the greatest length. */
function sortByLength(lengths: Uint8Array, from: number, count: number): number {
  countOfLength.fill(0)
  for (let symbol = 0; symbol < count; symbol++) {
    const length = lengths[from + symbol] ?? 0
    countOfLength[length] = (countOfLength[length] ?? 0) + 1
  }
  countOfLength[0] = 0
  nextOfLength[1] = 0
  let longest = 0
  for (let length = 1; length <= MOST_CODE_BITS; length++) {
    nextOfLength[length + 1] = (nextOfLength[length] ?? 0) + (countOfLength[length] ?? 0)
    if ((countOfLength[length] ?? 0) > 0) longest = length
  }
  for (let symbol = 0; symbol < count; symbol++) {
    const length = lengths[from + symbol] ?? 0
    if (length === 0) continue
    const place = nextOfLength[length] ?? 0
    sorted[place] = symbol
    nextOfLength[length] = place + 1
  }
  return longest
}

/** The code after `code` of `length` bits, both with the first bit lowest: adds one at the highest bit, and carries downward. */
function nextCode(code: number, length: number): number {
  let bit = 1 << (length - 1)
  while ((code & bit) !== 0) bit >>= 1
  return bit === 0 ? 0 : (code & (bit - 1)) | bit
}

/** Bits of a subtable that begins with a code of `length`, of which `left` are left: as many as the subtable's codes need. */
function subtableBits(length: number, left: number, rootBits: number, longest: number): number {
  let bits = length - rootBits
  let room = (1 << bits) - left
  while (room > 0 && rootBits + bits < longest) {
    bits++
    room = room * 2 - (countOfLength[rootBits + bits] ?? 0)
  }
  return bits
}
