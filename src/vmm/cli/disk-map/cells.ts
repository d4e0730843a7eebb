/** Divides a disk into cells of equal size, each with its most frequent kind. */
import type { Part } from "./parts.ts"

/** The kind of a part of a disk, for a picture. Each layer of backing files has a kind; the last one includes all below it. */
export type Kind = "unallocated" | "zero" | "data" | "compressed" | `backing ${1 | 2 | 3}`

export const KINDS: readonly Kind[] = ["unallocated", "zero", "data", "compressed", "backing 1", "backing 2", "backing 3"]

export interface Cells {
  /** In order of the disk. */
  readonly kinds: readonly Kind[]
  /** Bytes of the disk for each cell. */
  readonly bytesPerCell: number
  /** Bytes of the disk that are of each kind. */
  readonly totals: ReadonlyMap<Kind, number>
}

/**
 * Draws the parts of a disk of `size` bytes into at most `most` cells. Even small allocated parts show: a cell is unallocated only if all
 * of it is.
 */
export function cellsOf(parts: Iterable<Part>, size: number, most: number): Cells {
  const count = Math.max(Math.min(most, Math.ceil(size / 512)), 1)
  const bytesPerCell = Math.max(size / count, 1)
  const bytes = KINDS.map(() => new Float64Array(count))
  const totals = new Map<Kind, number>()
  for (const part of parts) {
    const kind = kindOf(part)
    totals.set(kind, (totals.get(kind) ?? 0) + part.length)
    addPart(bytes[KINDS.indexOf(kind)] ?? new Float64Array(count), part, bytesPerCell)
  }
  const kinds = Array.from({ length: count }, (_, cell) => largestKind(bytes, cell))
  return { kinds, bytesPerCell, totals }
}

function kindOf({ present, zero, depth, compressed }: Part): Kind {
  if (!present) return "unallocated"
  if (zero) return "zero"
  if (depth === 0) return compressed ? "compressed" : "data"
  return depth === 1 ? "backing 1" : depth === 2 ? "backing 2" : "backing 3"
}

function addPart(cells: Float64Array, { start, length }: Part, bytesPerCell: number): void {
  const end = start + length
  for (let cell = Math.floor(start / bytesPerCell); cell < cells.length && cell * bytesPerCell < end; cell++) {
    const inside = Math.min(end, (cell + 1) * bytesPerCell) - Math.max(start, cell * bytesPerCell)
    cells[cell] = (cells[cell] ?? 0) + Math.max(inside, 0)
  }
}

function largestKind(bytes: readonly Float64Array[], cell: number): Kind {
  let best: Kind = "unallocated"
  let most = 0
  KINDS.forEach((kind, index) => {
    const held = bytes[index]?.[cell] ?? 0
    if (kind === "unallocated" || held <= most) return
    most = held
    best = kind
  })
  return best
}
