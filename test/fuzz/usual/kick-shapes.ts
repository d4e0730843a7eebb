/** What becomes of the buffers of a request in the guests of KickFuzzer. */
import type { Piece } from "../../harness/ring.ts"

/** Of header, data if there are any, and status. */
export type Shape = (pieces: readonly Piece[]) => readonly Piece[]

export const SHAPES: readonly Shape[] = [
  (pieces) => pieces,
  // Data in pieces that touch, and in pieces that do not.
  (pieces) => inTwo(pieces),
  (pieces) => inTwo(pieces, ([one, other]) => [other, one]),
  // The header and what is written in one piece, or what is read and the status.
  joinEnds,
  // A header in two pieces: no row.
  ([header, ...rest]) => (header === undefined ? rest : [...halves(header), ...rest]),
  // A chain that is broken where data are written.
  ([header, ...rest]) => (header === undefined ? rest : [header, ...rest.toReversed()]),
]

type Halves = readonly [Piece, Piece]

function halves({ address, length, writable }: Piece): Halves {
  const half = length >>> 1
  return [{ address, length: half, writable }, { address: Number(address) + half, length: length - half, writable }]
}

function inTwo(pieces: readonly Piece[], order: (both: Halves) => Halves = (both) => both): readonly Piece[] {
  return pieces.flatMap((piece, at) => (at === 0 || at === pieces.length - 1 ? [piece] : order(halves(piece))))
}

function joinEnds(pieces: readonly Piece[]): readonly Piece[] {
  const [header, data, status] = pieces
  if (header === undefined || data === undefined || status === undefined) return pieces
  return data.writable ? [header, { ...data, length: data.length + 1 }] : [{ ...header, length: header.length + data.length }, status]
}
