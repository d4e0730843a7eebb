/** Pieces: cuts a disk into pieces for single steps: data to read, zeroes that the disk reports, and bytes to skip. */
import type { LateReads } from "./late-reads.ts"
import type { Operation } from "../operation.ts"
import { runAt, type SourceDisk } from "../runs.ts"

/**
 * Bytes of data in one piece, which stay in the processor's cache from the read to the write. Pieces of 2 MiB take a third longer, and of
 * 64 KiB a tenth (measured).
 */
const PIECE = 1 << 18
/**
 * The same for pieces that another thread reads. Each costs a turn of the event loop, and a short one is still in the cache of the other
 * processor when it is written: that is slower than a read from the shared cache (measured).
 */
const LATE_PIECE = 1 << 21
/** Shorter runs are read synchronously: a turn of the event loop takes as long as copying 64 KiB. */
const SHORTEST_LATE = 1 << 17
/** Bytes of zeroes in one piece, after which progress is reported. */
const ZERO_PIECE = 2 ** 30

export type PieceKind = "data" | "zero" | "skip"

export interface Piece {
  readonly offset: number
  readonly length: number
  readonly kind: PieceKind
  /** True for data that is read on another thread. */
  readonly isLate?: boolean
}

/** Returns the run from `offset` on of bytes of one kind: at most `length` > 0. */
export type Lookup = (offset: number, length: number) => Promise<{ readonly length: number; readonly kind: PieceKind }>

/** Copies the whole content of a disk. */
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
  /** The reads that another thread can do. */
  readonly lateReads?: LateReads | undefined
}

export class Pieces {
  readonly #size: number
  readonly #lookup: Lookup
  readonly #operation: Operation
  readonly #unit: number
  readonly #lateReads: LateReads | undefined
  readonly #dataPiece: number
  readonly #latePiece: number
  #at = 0
  /** All bytes up to here are data. */
  #dataEnd = 0
  #isStopped = false
  /** The previous search: concurrent calls of `next` wait for each other. */
  #last: Promise<Piece | undefined> = Promise.resolve(undefined)

  constructor(options: PiecesOptions) {
    this.#size = options.size
    this.#lookup = options.lookup
    this.#operation = options.operation
    this.#unit = options.unit
    this.#lateReads = options.lateReads
    this.#dataPiece = this.#wholeUnits(PIECE) || options.unit
    this.#latePiece = this.#wholeUnits(LATE_PIECE) || options.unit
  }

  /** The next piece, or undefined at the end, and after `stop`. @throws errors of the source; the signal's reason */
  next(): Promise<Piece | undefined> {
    this.#last = this.#last.then(() => this.#find())
    return this.#last
  }

  /** Makes `next` resolve to undefined. */
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
    const most = Math.min(Math.ceil(this.#dataEnd / this.#unit) * this.#unit, this.#size) - offset
    const late = this.#lateLength(offset, Math.min(most, this.#latePiece))
    if (late >= SHORTEST_LATE) return this.#take({ offset, length: late, kind: "data", isLate: true })
    return this.#take({ offset, length: Math.min(most, this.#dataPiece), kind: "data" })
  }

  /** How many of `length` bytes at `offset` another thread can read: all, or whole units. */
  #lateLength(offset: number, length: number): number {
    const run = this.#lateReads === undefined || length < SHORTEST_LATE ? 0 : this.#lateReads.runAt(offset, length)
    return run < length ? this.#wholeUnits(run) : length
  }

  /** Rounds `length` down to whole units. */
  #wholeUnits(length: number): number {
    return Math.floor(length / this.#unit) * this.#unit
  }

  #take(piece: Piece): Piece {
    this.#at += piece.length
    return piece
  }

  /** Whole units at `offset` that need not be read. If there are none, sets the end of the data. */
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
    // The rest of a unit is copied together with the next bytes.
    this.#dataEnd = offset + length
    const whole = length >= rest ? rest : Math.floor(length / this.#unit) * this.#unit
    return whole === 0 ? undefined : { offset, length: whole, kind }
  }
}
