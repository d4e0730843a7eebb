/** The alphabets of deflate, and a table for each, made when it is first needed. RFC 1951, 3.2.5 to 3.2.7 */
import { ENTRY, HuffmanTable, KIND, NO_CODE } from "./huffman-table.ts"

/** The order in which the lengths of the codes for code lengths are stored. */
export const ORDER_OF_LENGTHS = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] as const

/** The lengths of the fixed codes: 288 for literals and lengths, then 32 for distances. */
const FIXED_LENGTHS = Uint8Array.from({ length: 320 }, (_, at) => (at < 144 ? 8 : at < 256 ? 9 : at < 280 ? 7 : at < 288 ? 8 : 5))

const MOST_LENGTH = 258

/** Entries for values in ascending ranges, with the given numbers of extra bits. */
function baseEntries(first: number, extras: readonly number[]): number[] {
  let base = first
  return extras.map((extra) => {
    const entry = (base << ENTRY.VALUE_SHIFT) | KIND.BASE | (extra << ENTRY.EXTRA_SHIFT)
    base += 1 << extra
    return entry
  })
}

const LENGTH_EXTRA_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5] as const
const DISTANCE_EXTRA_BITS = [
  0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
] as const

function valueEntries(count: number): number[] {
  return Array.from({ length: count }, (_, value) => value << ENTRY.VALUE_SHIFT)
}

/** Literals, the end of the block, and lengths. Two more symbols have codes in the fixed code, but no meaning. */
function lengthSymbols(): Int32Array {
  const longest = (MOST_LENGTH << ENTRY.VALUE_SHIFT) | KIND.BASE
  return Int32Array.from([...valueEntries(256), KIND.END, ...baseEntries(3, LENGTH_EXTRA_BITS), longest, NO_CODE, NO_CODE])
}

function distanceSymbols(): Int32Array {
  return Int32Array.from([...baseEntries(1, DISTANCE_EXTRA_BITS), NO_CODE, NO_CODE])
}

let lengths: HuffmanTable | undefined
let distances: HuffmanTable | undefined
let precode: HuffmanTable | undefined
let fixedLengths: HuffmanTable | undefined
let fixedDistances: HuffmanTable | undefined

/** The table for the codes that a block describes. */
export function lengthTable(): HuffmanTable {
  return (lengths ??= newLengthTable())
}

export function distanceTable(): HuffmanTable {
  return (distances ??= newDistanceTable())
}

/** The table of the fixed code. It is built only once, because a block may have as few as ten bits. */
export function fixedLengthTable(): HuffmanTable {
  if (fixedLengths === undefined) {
    fixedLengths = newLengthTable()
    fixedLengths.build(FIXED_LENGTHS, 0, 288, false)
  }
  return fixedLengths
}

export function fixedDistanceTable(): HuffmanTable {
  if (fixedDistances === undefined) {
    fixedDistances = newDistanceTable()
    fixedDistances.build(FIXED_LENGTHS, 288, 32, false)
  }
  return fixedDistances
}

function newLengthTable(): HuffmanTable {
  return new HuffmanTable("literals and lengths", 10, lengthSymbols())
}

function newDistanceTable(): HuffmanTable {
  return new HuffmanTable("distances", 9, distanceSymbols())
}

/** The table for the code lengths of a block. */
export function precodeTable(): HuffmanTable {
  return (precode ??= new HuffmanTable("lengths", 7, Int32Array.from(valueEntries(19))))
}
