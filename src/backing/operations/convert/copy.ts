/** The copy loop: takes the pieces of a disk, and gives them to a sink. */
import type { Sink } from "./disk-sink.ts"
import type { LateReads } from "./late-reads.ts"
import type { Operation } from "../operation.ts"
import type { Pace } from "../pace.ts"
import { type Lookup, type Piece, Pieces } from "./pieces.ts"
import type { SourceDisk } from "../runs.ts"

export interface CopyOptions {
  readonly source: SourceDisk
  readonly sink: Sink
  readonly operation: Operation
  /** Number of pieces in progress. More than one only helps asynchronous disks. */
  readonly lanes: number
  /** Limits the rate of copied data. */
  readonly pace: Pace
  /** Tells which bytes are copied. */
  readonly lookup: Lookup
  /** Reads pieces ahead, while others are written. */
  readonly lateReads: LateReads | undefined
}

/** Pieces to read ahead: more are not faster (measured). */
const AHEAD = 1

/** A piece in progress. */
interface Begun {
  readonly piece: Piece
  /** Set if the data is being read ahead. */
  readonly buffer?: Uint8Array
  readonly reading?: Promise<void>
}

/** Copies all pieces. When it rejects, no read or write is in progress any more. @throws errors of the disks; the signal's reason */
export async function copyPieces(options: CopyOptions): Promise<void> {
  const { source, sink, operation, lookup, lateReads } = options
  const pieces = new Pieces({ size: source.size, lookup, operation, unit: sink.unit, lateReads })
  const lanes = Array.from({ length: options.lanes }, () => copyLane(options, pieces))
  const results = await Promise.allSettled(lanes)
  const lost = results.find((result) => result.status === "rejected")
  if (lost !== undefined) throw lost.reason
  await sink.finish()
}

/** Copies one piece after another. All lanes take them from the same `pieces`. */
async function copyLane(options: CopyOptions, pieces: Pieces): Promise<void> {
  const { operation, lateReads } = options
  const most = lateReads === undefined ? 1 : AHEAD + 1
  const begun: Begun[] = []
  try {
    for (;;) {
      while (begun.length < most) {
        const piece = await pieces.next()
        if (piece === undefined) break
        begun.push(begin(piece, options))
      }
      const first = begun[0]
      if (first === undefined) return
      await finish(first, options)
      begun.shift()
      operation.advance(first.piece.length)
    }
  } catch (error) {
    pieces.stop()
    // Waits for reads in progress, because the caller may close the source after this rejects.
    await Promise.allSettled(begun.map(({ reading }) => reading))
    throw error
  }
}

/** Begins to read a piece, if it can be read ahead. */
function begin(piece: Piece, { sink, lateReads }: CopyOptions): Begun {
  if (piece.isLate !== true || lateReads === undefined) return { piece }
  const buffer = sink.buffer(piece.length)
  const reading = lateReads.read(buffer, piece.offset)
  // `finish` reports the error; this only prevents an unhandled rejection.
  reading.catch(() => undefined)
  return { piece, buffer, reading }
}

async function finish({ piece, buffer, reading }: Begun, { source, sink, operation, pace }: CopyOptions): Promise<void> {
  const { offset, length, kind } = piece
  if (kind === "zero") await sink.zero(offset, length)
  if (kind !== "data") return
  const content = buffer ?? sink.buffer(length)
  await (reading ?? source.pread(content, offset))
  await sink.write(content, offset)
  await pace.spend(length, () => operation.throwIfStopped())
}
