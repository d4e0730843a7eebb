/** Reads tables of 64-bit words in an image file in pieces, so that a table of any size takes the memory of one piece. */
import type { ImageFile } from "../../image-file.ts"
import type { Geometry } from "../format/geometry.ts"
import { EXTENDED_L2, TABLE_ENTRY_SIZE } from "../format/spec.ts"

const PIECE = 65536

/** Called with the two halves of a word that is not zero, and its byte offset in the file. */
export type WordVisitor = (hi: number, lo: number, at: number) => void

/** Visits the words from `offset` that are not zero, `count` words in all. Beyond the end of the file everything is zero (QC-L2-09). */
export function visitWords(file: ImageFile, offset: number, count: number, visit: WordVisitor): void {
  visitPieces(file, offset, count * TABLE_ENTRY_SIZE, (view, start, length) => {
    for (let at = 0; at < length; at += TABLE_ENTRY_SIZE) {
      const hi = view.getUint32(at)
      const lo = view.getUint32(at + 4)
      if (hi !== 0 || lo !== 0) visit(hi, lo, start + at)
    }
  })
}

/** An L2 entry: the two halves of its word, and of the bitmap of an extended one, 0 without. One object is filled again and again. */
export interface L2Words {
  hi: number
  lo: number
  zero: number
  allocated: number
}

/** Visits the entries of the L2 table at `offset` that are not zero, each with its byte offset in the file. */
export function visitL2Entries(
  file: ImageFile,
  offset: number,
  { clusterSize, l2EntrySize, extendedL2 }: Geometry,
  visit: (words: Readonly<L2Words>, at: number) => void,
): void {
  const words: L2Words = { hi: 0, lo: 0, zero: 0, allocated: 0 }
  visitPieces(file, offset, clusterSize, (view, start, length) => {
    for (let at = 0; at < length; at += l2EntrySize) {
      words.hi = view.getUint32(at)
      words.lo = view.getUint32(at + 4)
      if (extendedL2) {
        words.zero = view.getUint32(at + EXTENDED_L2.ZERO_BITS)
        words.allocated = view.getUint32(at + EXTENDED_L2.ALLOCATED_BITS)
      }
      if (words.hi !== 0 || words.lo !== 0 || words.zero !== 0 || words.allocated !== 0) visit(words, start + at)
    }
  })
}

/** Calls `visit` with each piece of `size` bytes from `offset` up to the end of the file, where it starts, and its length. */
function visitPieces(
  file: ImageFile,
  offset: number,
  size: number,
  visit: (view: DataView, start: number, length: number) => void,
): void {
  const buffer = new Uint8Array(Math.min(PIECE, size))
  const view = new DataView(buffer.buffer)
  const end = offset + size
  for (let start = offset; start < end; start += PIECE) {
    const length = Math.min(PIECE, end - start)
    const got = file.read(buffer.subarray(0, length), start)
    if (got === 0) return
    buffer.fill(0, got, length)
    visit(view, start, length)
  }
}

/** Fills `buffer` from `offset`, with zeroes beyond the end of the file. */
export function readPadded(file: ImageFile, buffer: Uint8Array, offset: number): void {
  buffer.fill(0, file.read(buffer, offset))
}
