/** Pieces: a disk cut into what one step copies: data to be read, zeroes that the disk tells of, and what is not to be copied at all. */
import type { Operation } from "../operation.ts"
import { runAt, type SourceDisk } from "../runs.ts"

/**
 * Bytes of data in one piece: what is read stays in the processor's cache until it is written. 2 MiB take a third longer, and 64 KiB a
 * tenth (measured).
 */
const PIECE = 1 << 18
/**
 * The same for pieces that another thread reads. Each costs a turn of the event loop; and a short one is still in the cache of the other
 * processor when it is written, which takes longer than to get it from the cache that they share (measured).
 */
const PIECE_AHEAD = 1 << 21
/** Bytes of zeroes in one piece: progress is told after each. */
const ZERO_PIECE = 2 ** 30

export type PieceKind = "data" | "zero" | "skip"

export interface Piece {
  readonly offset: number
  readonly length: number
  readonly kind: PieceKind
}

/** What is known of a disk's bytes from `offset` on: at most `length` > 0 of them that are alike. */
export type Lookup = (offset: number, length: number) => Promise<{ readonly length: number; readonly kind: PieceKind }>

/** Copies all that a disk reads as. */
export function everything(source: SourceDisk): Lookup {
  return async (offset, length) => {
    const run = await runAt(source, offset, length)
    return { length: run.length, kind: run.isZero ? "zero" : "data" }
  }
}

export interface PiecesOptions {
  /** Bytes of the disk. */
  readonly size: number
  readonly lookup: Lookup
  readonly operation: Operation
  /** Bytes: pieces begin at multiples of this, so that clusters of the target are written whole. */
  readonly unit: number
  /** Pieces of data are read ahead. */
  readonly isReadAhead: boolean
}

export class Pieces {
  readonly #size: number
  readonly #lookup: Lookup
  readonly #operation: Operation
  readonly #unit: number
  readonly #dataPiece: number
  #at = 0
  /** Up to here all is data. */
  #dataEnd = 0
  #isStopped = false
  /** The search for the piece before: those who ask at once wait for each other. */
  #last: Promise<Piece | undefined> = Promise.resolve(undefined)

  constructor(options: PiecesOptions) {
    this.#size = options.size
    this.#lookup = options.lookup
    this.#operation = options.operation
    this.#unit = options.unit
    const piece = options.isReadAhead ? PIECE_AHEAD : PIECE
    this.#dataPiece = Math.max(1, Math.floor(piece / options.unit)) * options.unit
  }

  /** The next piece, or undefined at the end, and after `stop`. @throws what the source fails with, and what stops the operation */
  next(): Promise<Piece | undefined> {
    this.#last = this.#last.then(() => this.#find())
    return this.#last
  }

  /** There are no more pieces. */
  stop(): void {
    this.#isStopped = true
  }

  async #find(): Promise<Piece | undefined> {
    await this.#operation.turn()
    const offset = this.#at
    if (this.#isStopped || offset >= this.#size) return undefined
    if (offset >= this.#dataEnd) {
      const quiet = await this.#quietAt(offset)
      if (quiet !== undefined) return this.#take(quiet)
    }
    const end = Math.min(Math.ceil(this.#dataEnd / this.#unit) * this.#unit, offset + this.#dataPiece, this.#size)
    return this.#take({ offset, length: end - offset, kind: "data" })
  }

  #take(piece: Piece): Piece {
    this.#at += piece.length
    return piece
  }

  /** Whole units at `offset` that need not be read. Where there are none, finds out how far data goes. */
  async #quietAt(offset: number): Promise<Piece | undefined> {
    const rest = this.#size - offset
    const { kind, length: first } = await this.#lookup(offset, rest)
    this.#dataEnd = offset + first
    if (kind === "data") return undefined
    let length = first
    while (length < Math.min(rest, ZERO_PIECE)) {
      const more = await this.#lookup(offset + length, rest - length)
      if (more.kind !== kind) break
      length += more.length
    }
    // What is left of a unit is copied with what follows it.
    this.#dataEnd = offset + length
    const whole = length >= rest ? rest : Math.floor(length / this.#unit) * this.#unit
    return whole === 0 ? undefined : { offset, length: whole, kind }
  }
}
