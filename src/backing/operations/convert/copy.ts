/** The copy loop: takes the pieces of a disk, and gives them to a sink. */
import type { Sink } from "./disk-sink.ts"
import type { Operation } from "../operation.ts"
import type { Pace } from "../pace.ts"
import { type Lookup, Pieces } from "./pieces.ts"
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
}

/** Copies all of it. When it rejects, nothing of it goes on. @throws what the disks fail with, and what stops the operation */
export async function copyPieces(options: CopyOptions): Promise<void> {
  const { source, sink, operation, lookup } = options
  const pieces = new Pieces({ size: source.size, lookup, operation, unit: sink.unit })
  const lanes = Array.from({ length: options.lanes }, () => copyLane(options, pieces))
  const results = await Promise.allSettled(lanes)
  const lost = results.find((result) => result.status === "rejected")
  if (lost !== undefined) throw lost.reason
  await sink.finish()
}

/** Copies piece after piece, as they come: lanes share one list of pieces. */
async function copyLane({ source, sink, operation, pace }: CopyOptions, pieces: Pieces): Promise<void> {
  try {
    for (let piece = await pieces.next(); piece !== undefined; piece = await pieces.next()) {
      const { offset, length, kind } = piece
      if (kind === "zero") await sink.zero(offset, length)
      else if (kind === "data") {
        const buffer = sink.buffer(length)
        await source.pread(buffer, offset)
        await sink.write(buffer, offset)
        await pace.spend(length, () => operation.throwIfStopped())
      }
      operation.advance(length)
    }
  } catch (error) {
    pieces.stop()
    throw error
  }
}
