/**
 * The sequences of a compressed block: each is a number of literals, then the length and the offset of a match. RFC 8878, 3.1.1.3.2 and
 * 3.1.1.5
 */
import { DecompressionError } from "../decompression-error.ts"
import { MOST_BITS, peekBackward, startBackward, topBits, wordBelow } from "./bits.ts"
import {
  LITERAL_LENGTH_ALPHABET, LITERAL_LENGTHS, MATCH_LENGTH_ALPHABET, MATCH_LENGTHS, OFFSET_ALPHABET,
} from "./sequence-codes.ts"
import { SequenceTable } from "./sequence-tables.ts"

/** Sequences to decode before they are executed: enough to keep both loops busy, few enough to stay in the nearest cache. */
const MOST_AT_ONCE = 512
/** Bits of the longest offset that can lie inside an output (`MOST_OUTPUT` in zstd.ts). */
const MOST_OFFSET_BITS = 24

function corrupt(what: string): DecompressionError {
  return new DecompressionError(`a zstd block has ${what}`)
}

export class Sequences {
  /** The sequences that `decode` found. An invalid offset is 0. */
  readonly literalLengths = new Int32Array(MOST_AT_ONCE)
  readonly matchLengths = new Int32Array(MOST_AT_ONCE)
  readonly offsets = new Int32Array(MOST_AT_ONCE)
  readonly #literalLengthTable = new SequenceTable(LITERAL_LENGTH_ALPHABET)
  readonly #offsetTable = new SequenceTable(OFFSET_ALPHABET)
  readonly #matchLengthTable = new SequenceTable(MATCH_LENGTH_ALPHABET)
  /** The last three offsets, the latest first. */
  readonly #latest = new Int32Array(3)
  /** Sequences of the block that are not yet decoded. */
  #left = 0
  #data: DataView = new DataView(new ArrayBuffer(0))
  /** The stream of the block: its last bit position, and the current one (see `startBackward`). */
  #end = 0
  #position = 0
  readonly #states = new Int32Array(3)
  /** Tables that the last block described. */
  describedTables = 0

  /** Begins a frame. */
  reset(): void {
    this.#literalLengthTable.reset()
    this.#offsetTable.reset()
    this.#matchLengthTable.reset()
    this.#latest.set([1, 4, 8])
  }

  /** Sequences of the block that `decode` has not yet found. */
  get left(): number {
    return this.#left
  }

  /** Reads the header and tables of the section from `start` to `end`, the end of the block. @throws DecompressionError */
  open(data: DataView, bytes: Uint8Array, start: number, end: number): void {
    const first = start < end ? data.getUint8(start) : 0
    const countLength = first < 128 ? 1 : first < 255 ? 2 : 3
    const modesAt = start + countLength
    if (start >= end || modesAt > end) throw corrupt("sequences that end too early")
    this.#left = readCount(data, start, first)
    this.describedTables = 0
    if (this.#left === 0) {
      if (modesAt !== end) throw corrupt("data after its last sequence")
      return
    }
    if (modesAt === end) throw corrupt("sequences that end too early")
    const modes = data.getUint8(modesAt)
    if ((modes & 3) !== 0) throw corrupt("a reserved bit that is set")
    let at = this.#literalLengthTable.read(modes >>> 6, bytes, modesAt + 1, end)
    at = this.#offsetTable.read((modes >>> 4) & 3, bytes, at, end)
    at = this.#matchLengthTable.read((modes >>> 2) & 3, bytes, at, end)
    this.describedTables = [this.#literalLengthTable, this.#offsetTable, this.#matchLengthTable].filter((table) => table.isDescribed).length
    this.#data = data
    this.#end = at * 8
    this.#position = startBackward(data, at, end)
    for (const [index, { current }] of [this.#literalLengthTable, this.#offsetTable, this.#matchLengthTable].entries()) {
      this.#states[index] = peekBackward(data, this.#position, current.accuracyLog)
      this.#position -= current.accuracyLog
    }
    if (this.#position < this.#end) throw corrupt("sequences that end too early")
  }

  /**
   * Decodes the next sequences. Returns their number. At most 70 bits are read between two checks of the position, so reads never go before
   * the frame's first twelve bytes.
   * @throws DecompressionError
   */
  decode(): number {
    const { literalLengths, matchLengths, offsets } = this
    const [data, end, latest] = [this.#data, this.#end, this.#latest]
    const [lengthTable, offsetTable, matchTable] = [
      this.#literalLengthTable.current.entries, this.#offsetTable.current.entries, this.#matchLengthTable.current.entries,
    ]
    const { bases: matchBases, extraBits: matchExtra } = MATCH_LENGTHS
    const { bases: lengthBases, extraBits: lengthExtra } = LITERAL_LENGTHS
    const count = Math.min(this.#left, MOST_AT_ONCE)
    let position = this.#position
    let [lengthState = 0, offsetState = 0, matchState = 0] = this.#states
    let [latest0 = 0, latest1 = 0, latest2 = 0] = latest
    for (let index = 0; index < count; index++) {
      const lengthEntry = lengthTable[lengthState] ?? 0
      const offsetEntry = offsetTable[offsetState] ?? 0
      const matchEntry = matchTable[matchState] ?? 0
      const offsetBits = offsetEntry & 0xff
      if (offsetBits > MOST_OFFSET_BITS) throw corrupt("an offset beyond its data")
      const value = (1 << offsetBits) + topBits(wordBelow(data, position), offsetBits)
      position -= offsetBits
      const matchBits = matchExtra[matchEntry & 0xff] ?? 0
      const lengthBits = lengthExtra[lengthEntry & 0xff] ?? 0
      const word = wordBelow(data, position)
      matchLengths[index] = (matchBases[matchEntry & 0xff] ?? 0) + topBits(word, matchBits)
      position -= matchBits
      // Two long lengths do not fit into one word.
      const rest = matchBits + lengthBits > MOST_BITS ? wordBelow(data, position) : word << matchBits
      const literalLength = (lengthBases[lengthEntry & 0xff] ?? 0) + topBits(rest, lengthBits)
      literalLengths[index] = literalLength
      position -= lengthBits
      if (value > 3) {
        latest2 = latest1
        latest1 = latest0
        latest0 = value - 3
      } else {
        // One of the latest offsets. Without literals they count from the second one, and the last is the first minus one.
        const which = literalLength === 0 ? value : value - 1
        if (which > 0) {
          const offset = which === 1 ? latest1 : which === 2 ? latest2 : latest0 - 1
          if (which > 1) latest2 = latest1
          latest1 = latest0
          latest0 = offset
        }
      }
      offsets[index] = latest0
      if (position < end) throw corrupt("sequences that end too early")
      // No states follow the last sequence.
      if (index + 1 === this.#left) break
      const lengthNext = (lengthEntry >>> 8) & 0xff
      const matchNext = (matchEntry >>> 8) & 0xff
      const offsetNext = (offsetEntry >>> 8) & 0xff
      const states = wordBelow(data, position)
      lengthState = (lengthEntry >>> 16) + topBits(states, lengthNext)
      matchState = (matchEntry >>> 16) + topBits(states << lengthNext, matchNext)
      position -= lengthNext + matchNext
      offsetState = (offsetEntry >>> 16) + topBits(wordBelow(data, position), offsetNext)
      position -= offsetNext
    }
    this.#left -= count
    if (this.#left === 0 && position !== end) throw corrupt("sequences that do not end where they should")
    this.#position = position
    this.#states.set([lengthState, offsetState, matchState])
    latest.set([latest0, latest1, latest2])
    return count
  }
}

/** RFC 8878, 3.1.1.3.2.1 */
function readCount(data: DataView, start: number, first: number): number {
  if (first < 128) return first
  if (first < 255) return ((first - 128) << 8) + data.getUint8(start + 1)
  return data.getUint16(start + 1, true) + 0x7f00
}
