/** The tables for one of the three numbers of a sequence: default, single symbol, described, or kept. RFC 8878, 3.1.1.3.2.1 */
import { DecompressionError } from "../decompression-error.ts"
import { ForwardBits } from "./bits.ts"
import { FseTable } from "./fse.ts"
import { defaultTable, type SequenceAlphabet } from "./sequence-codes.ts"

const MODE = { PREDEFINED: 0, RLE: 1, FSE_COMPRESSED: 2, REPEAT: 3 } as const

export class SequenceTable {
  /** The table that the last `read` chose. */
  current: FseTable
  /** The last `read` built `current` from a description. */
  isDescribed = false
  readonly #alphabet: SequenceAlphabet
  readonly #predefined: FseTable
  readonly #own: FseTable
  #isSet = false

  constructor(alphabet: SequenceAlphabet) {
    this.#alphabet = alphabet
    this.#predefined = defaultTable(alphabet)
    this.#own = new FseTable(alphabet.highestLog)
    this.current = this.#predefined
  }

  /** Begins a frame, which has no earlier table. */
  reset(): void {
    this.#isSet = false
  }

  /**
   * Chooses the table by `mode`, the two bits of the section's header. Its description begins at `start` and must end by `end`. Returns the
   * position after it.
   * @throws DecompressionError
   */
  read(mode: number, bytes: Uint8Array, start: number, end: number): number {
    const { name, highestCode } = this.#alphabet
    this.isDescribed = mode === MODE.FSE_COMPRESSED
    if (mode === MODE.REPEAT) {
      if (!this.#isSet) throw new DecompressionError(`a zstd block repeats a table of ${name} that there is not`)
      return start
    }
    this.#isSet = true
    if (mode === MODE.PREDEFINED) {
      this.current = this.#predefined
      return start
    }
    this.current = this.#own
    if (mode === MODE.RLE) {
      const symbol = start < end ? (bytes[start] ?? 0) : Number.POSITIVE_INFINITY
      if (symbol > highestCode) throw new DecompressionError(`a zstd block has no table of ${name}`)
      this.#own.setSingle(symbol)
      return start + 1
    }
    const bits = new ForwardBits(bytes, start, end)
    this.#own.read(bits, highestCode)
    return bits.finish()
  }
}
