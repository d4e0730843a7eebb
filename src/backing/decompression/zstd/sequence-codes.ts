/** The values of the codes of literal lengths, match lengths and offsets, and their default tables. RFC 8878, 3.1.1.3.2.1 */
import { FseTable } from "./fse.ts"

/** One of the three alphabets of sequences. */
export interface SequenceAlphabet {
  readonly name: string
  readonly highestCode: number
  readonly highestLog: number
  readonly defaultLog: number
  readonly defaultCounts: readonly number[]
}

/** `count` codes of one value each, from `start` on, then codes with `extra[i]` extra bits, for ascending ranges. */
function basesOf(start: number, count: number, extra: readonly number[]): { bases: Int32Array; extraBits: Uint8Array } {
  const bases = Int32Array.from({ length: count + extra.length }, (_, code) => start + code)
  const extraBits = Uint8Array.from([...new Uint8Array(count), ...extra])
  extra.forEach((_, index) => {
    const code = count + index
    if (index > 0) bases[code] = (bases[code - 1] ?? 0) + (1 << (extraBits[code - 1] ?? 0))
  })
  return { bases, extraBits }
}

/** Literal lengths: 16 codes without extra bits. */
export const LITERAL_LENGTHS = basesOf(0, 16, [1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
/** Match lengths: 32 codes without extra bits. The shortest match has 3 bytes. */
export const MATCH_LENGTHS = basesOf(3, 32, [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])

export const LITERAL_LENGTH_ALPHABET: SequenceAlphabet = {
  name: "literal lengths", highestCode: 35, highestLog: 9, defaultLog: 6,
  defaultCounts: [4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1],
}

export const OFFSET_ALPHABET: SequenceAlphabet = {
  name: "offsets", highestCode: 31, highestLog: 8, defaultLog: 5,
  defaultCounts: [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1],
}

export const MATCH_LENGTH_ALPHABET: SequenceAlphabet = {
  name: "match lengths", highestCode: 52, highestLog: 9, defaultLog: 6,
  defaultCounts: [
    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, -1, -1, -1, -1, -1, -1, -1,
  ],
}

/** The table of an alphabet's default counts. */
export function defaultTable({ highestLog, defaultLog, defaultCounts }: SequenceAlphabet): FseTable {
  const table = new FseTable(highestLog)
  table.build(defaultLog, defaultCounts)
  return table
}
