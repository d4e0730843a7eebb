/** Reads tables of 64-bit words in pieces, so that a table of any size takes the memory of one piece. */
import type { ImageFile } from "../../image-file.ts"
import { viewOf } from "../../bytes/fields.ts"
import type { Geometry } from "../format/geometry.ts"
import { EXTENDED_L2, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { nextNonZero } from "../format/words.ts"

const PIECE = 65536

/** Called with the two halves of a word that is not zero, and its byte offset in the file. */
export type WordVisitor = (hi: number, lo: number, at: number) => void

/** Visits the nonzero words among `count` words from `offset`. Words past the end of the file are zero (QC-L2-09). */
export function visitWords(file: ImageFile, offset: number, count: number, visit: WordVisitor): void {
  const piece = new Piece(Math.min(PIECE, count * TABLE_ENTRY_SIZE))
  visitPieces(file, piece, { offset, size: count * TABLE_ENTRY_SIZE }, ({ halves, view }, start, length) => {
    const end = length / 4
    for (let half = nextNonZero(halves, 0, end); half < end; half = nextNonZero(halves, half + 2, end)) {
      visit(view.getUint32(half * 4), view.getUint32(half * 4 + 4), start + half * 4)
    }
  })
}

/** An L2 entry: the two halves of its word, and of the bitmap of an extended entry, otherwise 0. Visitors get the same object each time. */
export interface L2Words {
  hi: number
  lo: number
  zero: number
  allocated: number
}

/** Visits entries of L2 tables. Reads all tables into the same buffer, because a new buffer costs more than the read. */
export class L2Visitor {
  readonly #file: ImageFile
  readonly #geometry: Geometry
  readonly #piece: Piece
  readonly #words: L2Words = { hi: 0, lo: 0, zero: 0, allocated: 0 }

  constructor({ file, geometry }: { readonly file: ImageFile; readonly geometry: Geometry }) {
    this.#file = file
    this.#geometry = geometry
    this.#piece = new Piece(Math.min(PIECE, geometry.clusterSize))
  }

  /** Visits the nonzero entries of the L2 table at `offset`, each with its byte offset in the file. Must not be called by `visit`. */
  visit(offset: number, visit: (words: Readonly<L2Words>, at: number) => void): void {
    const { clusterSize, extendedL2 } = this.#geometry
    const table = { offset, size: clusterSize }
    if (extendedL2) visitPieces(this.#file, this.#piece, table, (piece, start, length) => this.#visitExtended(piece, start, length, visit))
    else visitPieces(this.#file, this.#piece, table, (piece, start, length) => this.#visitStandard(piece, start, length, visit))
  }

  #visitStandard({ halves, view }: Piece, start: number, length: number, visit: (words: Readonly<L2Words>, at: number) => void): void {
    const words = this.#words
    const end = length / 4
    for (let half = nextNonZero(halves, 0, end); half < end; half = nextNonZero(halves, half + 2, end)) {
      words.hi = view.getUint32(half * 4)
      words.lo = view.getUint32(half * 4 + 4)
      visit(words, start + half * 4)
    }
  }

  #visitExtended({ halves, view }: Piece, start: number, length: number, visit: (words: Readonly<L2Words>, at: number) => void): void {
    const words = this.#words
    const end = length / 4
    for (let half = nextNonZero(halves, 0, end); half < end; half = nextNonZero(halves, half + 4, end)) {
      // Start of the entry: the word may be its second one.
      half -= half % 4
      const at = half * 4
      words.hi = view.getUint32(at)
      words.lo = view.getUint32(at + 4)
      words.zero = view.getUint32(at + EXTENDED_L2.ZERO_BITS)
      words.allocated = view.getUint32(at + EXTENDED_L2.ALLOCATED_BITS)
      visit(words, start + at)
    }
  }
}

/** Memory for a piece of a table. */
class Piece {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** The same bytes as 32-bit integers, for tests against zero, where byte order does not matter: they take a fifth of the time. */
  readonly halves: Int32Array

  constructor(size: number) {
    this.bytes = new Uint8Array(size)
    this.view = viewOf(this.bytes)
    this.halves = new Int32Array(this.bytes.buffer)
  }
}

/** Calls `visit` with each piece of a table up to the end of the file, the byte where it starts, and its length. */
function visitPieces(
  file: ImageFile,
  piece: Piece,
  { offset, size }: { readonly offset: number; readonly size: number },
  visit: (piece: Piece, start: number, length: number) => void,
): void {
  const end = offset + size
  for (let start = offset; start < end; start += PIECE) {
    const length = Math.min(PIECE, end - start)
    const got = file.readInto(piece.bytes, 0, length, start)
    if (got === 0) return
    piece.bytes.fill(0, got, length)
    visit(piece, start, length)
  }
}

/** Fills `buffer` from `offset`, with zeroes beyond the end of the file. */
export function readPadded(file: ImageFile, buffer: Uint8Array, offset: number): void {
  buffer.fill(0, file.read(buffer, offset))
}
