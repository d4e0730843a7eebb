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
  /** Pieces under way at once: more than one is for disks that answer later. */
  readonly lanes: number
  /** Data is copied as fast as this allows. */
  readonly pace: Pace
  /** What is to be copied. */
  readonly lookup: Lookup
  /** Reads pieces ahead, while others are written. */
  readonly lateReads: LateReads | undefined
}

/** Pieces that are read ahead: more of them make it no faster (measured). */
const AHEAD = 1

/** A piece on its way. */
interface Begun {
  readonly piece: Piece
  /** Of data that is being read. */
  readonly buffer?: Uint8Array
  readonly reading?: Promise<void>
}

/** Copies all of it. When it rejects, nothing of it goes on. @throws what the disks fail with, and what stops the operation */
export async function copyPieces(options: CopyOptions): Promise<void> {
  const { source, sink, operation, lookup, lateReads } = options
  const pieces = new Pieces({ size: source.size, lookup, operation, unit: sink.unit, lateReads })
  const lanes = Array.from({ length: options.lanes }, () => copyLane(options, pieces))
  const results = await Promise.allSettled(lanes)
  const lost = results.find((result) => result.status === "rejected")
  if (lost !== undefined) throw lost.reason
  await sink.finish()
}

/** Copies piece after piece, as they come: lanes share one list of pieces. */
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
    // The source may be closed once this has rejected.
    await Promise.allSettled(begun.map(({ reading }) => reading))
    throw error
  }
}

/** Begins to read a piece where that can be done ahead. */
function begin(piece: Piece, { sink, lateReads }: CopyOptions): Begun {
  if (piece.isLate !== true || lateReads === undefined) return { piece }
  const buffer = sink.buffer(piece.length)
  const reading = lateReads.read(buffer, piece.offset)
  // An error is told where it is waited for.
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
