/** Decodes the literals and matches of a deflate block. RFC 1951, 3.2.3 */
import { copyMatch } from "../copy-match.ts"
import { DecompressionError } from "../decompression-error.ts"
import { ENTRY, type HuffmanTable, KIND, KIND_MASK } from "./huffman-table.ts"

/** The positions in the input and in the output. */
export interface InflateState {
  /** The input with zeroes after it. */
  readonly data: DataView
  /** The next bit of the input, and the input's end in bits. */
  position: number
  readonly end: number
  readonly bytes: Uint8Array
  readonly view: DataView
  /** Bytes decompressed so far. */
  length: number
}

/** Decodes to the end of the block, or until the output is full. @throws DecompressionError */
export function inflateCodes(state: InflateState, lengths: HuffmanTable, distances: HuffmanTable): void {
  const { data, bytes, view, end } = state
  const { entries } = lengths
  const { entries: distanceEntries } = distances
  const mask = (1 << lengths.rootBits) - 1
  const distanceMask = (1 << distances.rootBits) - 1
  const { BITS_MASK, EXTRA_SHIFT, EXTRA_MASK, VALUE_SHIFT } = ENTRY
  const { LITERAL, SUBTABLE, END, BASE } = KIND
  const size = bytes.length
  let { position, length: at } = state
  // One symbol takes up to 48 bits, so positions go at most that far beyond the end, where the input has zeroes.
  while (at < size && position <= end) {
    let word = data.getUint32(position >> 3, true) >>> (position & 7)
    let entry = entries[word & mask] ?? 0
    if ((entry & KIND_MASK) === SUBTABLE) {
      const subMask = (1 << ((entry >>> EXTRA_SHIFT) & EXTRA_MASK)) - 1
      entry = entries[(entry >>> VALUE_SHIFT) + ((word >>> lengths.rootBits) & subMask)] ?? 0
    }
    position += entry & BITS_MASK
    if ((entry & KIND_MASK) === LITERAL) {
      bytes[at++] = entry >>> VALUE_SHIFT
      // The word has at least ten more bits: often another literal.
      word >>>= entry & BITS_MASK
      entry = entries[word & mask] ?? 0
      if ((entry & KIND_MASK) === LITERAL && at < size) {
        position += entry & BITS_MASK
        bytes[at++] = entry >>> VALUE_SHIFT
      }
      continue
    }
    if ((entry & KIND_MASK) === END) {
      if (entry >>> VALUE_SHIFT > 0) throw corrupt("a code without a meaning")
      break
    }
    const extra = (entry >>> EXTRA_SHIFT) & EXTRA_MASK
    const length = Math.min((entry >>> VALUE_SHIFT) + ((word >>> (entry & BITS_MASK)) & ((1 << extra) - 1)), size - at)
    position += extra
    word = data.getUint32(position >> 3, true) >>> (position & 7)
    entry = distanceEntries[word & distanceMask] ?? 0
    if ((entry & KIND_MASK) === SUBTABLE) {
      const subMask = (1 << ((entry >>> EXTRA_SHIFT) & EXTRA_MASK)) - 1
      entry = distanceEntries[(entry >>> VALUE_SHIFT) + ((word >>> distances.rootBits) & subMask)] ?? 0
    }
    if ((entry & KIND_MASK) !== BASE) throw corrupt("a code without a meaning")
    position += entry & BITS_MASK
    word = data.getUint32(position >> 3, true) >>> (position & 7)
    const distanceExtra = (entry >>> EXTRA_SHIFT) & EXTRA_MASK
    const distance = (entry >>> VALUE_SHIFT) + (word & ((1 << distanceExtra) - 1))
    position += distanceExtra
    if (distance > at) throw corrupt("a distance beyond its data")
    copyMatch(bytes, view, at, distance, length)
    at += length
  }
  if (position > end) throw new DecompressionError("the compressed data ends inside a deflate stream")
  state.position = position
  state.length = at
}

function corrupt(what: string): DecompressionError {
  return new DecompressionError(`a deflate block has ${what}`)
}
