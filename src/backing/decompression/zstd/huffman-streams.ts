/** Decodes literals from one backward stream of Huffman codes, or from four in parallel. RFC 8878, 4.2.2 */
import { DecompressionError } from "../decompression-error.ts"
import { startBackward, wordBelow } from "./bits.ts"
import type { HuffmanTable } from "./huffman.ts"

/** The common parameters of the loops. */
interface Source {
  readonly data: DataView
  readonly table: HuffmanTable
  /** Receives the decoded literals. */
  readonly output: Uint8Array
}

const JUMP_TABLE_SIZE = 6
const FEWEST_IN_FOUR_STREAMS = 6

function tooShort(): DecompressionError {
  return new DecompressionError("a zstd stream of literals ends too early")
}

/** Decodes the stream in the bytes from `start` to `end` to the first `count` bytes of the output. @throws DecompressionError */
export function decodeOneStream(source: Source, start: number, end: number, count: number): void {
  finishStream(source, { position: startBackward(source.data, start, end), start: start * 8, from: 0, to: count })
}

/** Decodes the four streams in the bytes from `start` to `end` to the first `count` bytes of the output. @throws DecompressionError */
export function decodeFourStreams(source: Source, start: number, end: number, count: number): void {
  const { data } = source
  if (end - start < JUMP_TABLE_SIZE || count < FEWEST_IN_FOUR_STREAMS) throw tooShort()
  const second = start + JUMP_TABLE_SIZE + data.getUint16(start, true)
  const third = second + data.getUint16(start + 2, true)
  const fourth = third + data.getUint16(start + 4, true)
  if (fourth >= end) throw tooShort()
  const starts = [start + JUMP_TABLE_SIZE, second, third, fourth] as const
  const ends = [second, third, fourth, end] as const
  decodeSideBySide(source, starts, ends, count)
}

/** A place in each of four streams. */
type Four = readonly [number, number, number, number]

/**
 * The streams are independent, so the processor works on all four at once. Each step decodes two symbols, at most 22 bits, from four bytes
 * of each stream.
 */
function decodeSideBySide(source: Source, starts: Four, ends: Four, count: number): void {
  const { data, output } = source
  const { entries, codeBits } = source.table
  const drop = 32 - codeBits
  const part = (count + 3) >> 2
  const [start1, start2, start3, start4] = [starts[0] * 8, starts[1] * 8, starts[2] * 8, starts[3] * 8]
  let position1 = startBackward(data, starts[0], ends[0])
  let position2 = startBackward(data, starts[1], ends[1])
  let position3 = startBackward(data, starts[2], ends[2])
  let position4 = startBackward(data, starts[3], ends[3])
  const steps = (count - 3 * part) & ~1
  let at = 0
  for (; at < steps; at += 2) {
    const word1 = wordBelow(data, position1)
    const word2 = wordBelow(data, position2)
    const word3 = wordBelow(data, position3)
    const word4 = wordBelow(data, position4)
    const a1 = entries[word1 >>> drop] ?? 0
    const a2 = entries[word2 >>> drop] ?? 0
    const a3 = entries[word3 >>> drop] ?? 0
    const a4 = entries[word4 >>> drop] ?? 0
    const b1 = entries[(word1 << (a1 >>> 8)) >>> drop] ?? 0
    const b2 = entries[(word2 << (a2 >>> 8)) >>> drop] ?? 0
    const b3 = entries[(word3 << (a3 >>> 8)) >>> drop] ?? 0
    const b4 = entries[(word4 << (a4 >>> 8)) >>> drop] ?? 0
    output[at] = a1
    output[at + 1] = b1
    output[at + part] = a2
    output[at + part + 1] = b2
    output[at + 2 * part] = a3
    output[at + 2 * part + 1] = b3
    output[at + 3 * part] = a4
    output[at + 3 * part + 1] = b4
    position1 -= (a1 >>> 8) + (b1 >>> 8)
    position2 -= (a2 >>> 8) + (b2 >>> 8)
    position3 -= (a3 >>> 8) + (b3 >>> 8)
    position4 -= (a4 >>> 8) + (b4 >>> 8)
    // One branch for all four: a negative difference has the sign bit.
    if (((position1 - start1) | (position2 - start2) | (position3 - start3) | (position4 - start4)) < 0) throw tooShort()
  }
  finishStream(source, { position: position1, start: start1, from: at, to: part })
  finishStream(source, { position: position2, start: start2, from: part + at, to: 2 * part })
  finishStream(source, { position: position3, start: start3, from: 2 * part + at, to: 3 * part })
  finishStream(source, { position: position4, start: start4, from: 3 * part + at, to: count })
}

/** The rest of one stream. Positions are bits, `from` and `to` bytes of the output. */
interface Rest {
  readonly position: number
  readonly start: number
  readonly from: number
  readonly to: number
}

function finishStream(source: Source, rest: Rest): void {
  const { data, output } = source
  const { entries, codeBits } = source.table
  const { start, to } = rest
  let { position } = rest
  for (let at = rest.from; at < to; at++) {
    const word = wordBelow(data, position)
    const entry = entries[word >>> (32 - codeBits)] ?? 0
    output[at] = entry
    position -= entry >>> 8
    if (position < start) throw tooShort()
  }
  if (position !== start) throw new DecompressionError("a zstd stream of literals does not end where it should")
}
