/** Reads tables of 64-bit words in an image file in pieces, so that a table of any size takes the memory of one piece. */
import type { ImageFile } from "../../image-file.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"

const PIECE = 65536

/** Called with the two halves of a word that is not zero, and its byte offset in the file. */
export type WordVisitor = (hi: number, lo: number, at: number) => void

/** Visits the words from `offset` that are not zero, `count` words in all. Beyond the end of the file everything is zero (QC-L2-09). */
export function visitWords(file: ImageFile, offset: number, count: number, visit: WordVisitor): void {
  const buffer = new Uint8Array(Math.min(PIECE, count * TABLE_ENTRY_SIZE))
  const view = new DataView(buffer.buffer)
  const end = offset + count * TABLE_ENTRY_SIZE
  for (let start = offset; start < end; start += PIECE) {
    const length = Math.min(PIECE, end - start)
    const got = file.read(buffer.subarray(0, length), start)
    if (got === 0) return
    buffer.fill(0, got, length)
    for (let at = 0; at < length; at += TABLE_ENTRY_SIZE) {
      const hi = view.getUint32(at)
      const lo = view.getUint32(at + 4)
      if (hi !== 0 || lo !== 0) visit(hi, lo, start + at)
    }
  }
}

/** Fills `buffer` from `offset`, with zeroes beyond the end of the file. */
export function readPadded(file: ImageFile, buffer: Uint8Array, offset: number): void {
  buffer.fill(0, file.read(buffer, offset))
}
