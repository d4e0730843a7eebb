/** Copies data of the layers below an image into the image, piece by piece, while the image is in use. */
import type { Qcow2Image } from "../image.ts"
import type { BackingDisk } from "../reader.ts"
import { ownRun, runAbove } from "./layer-run.ts"

export interface PullRange {
  readonly offset: number
  /** Bytes; more than 0. */
  readonly length: number
  /** The layer that stays in the chain, whose data is not copied. */
  readonly base: BackingDisk | undefined
}

/** The result of one `pull`. */
export interface Pulled {
  /** Bytes from the offset on that are done. */
  readonly length: number
  /** Number of them that were copied. */
  readonly copied: number
}

/**
 * Copies a run of data of the layers above `base` into the image, from `offset` on: at most `buffer.length` bytes, through `buffer`. This
 * is one synchronous call, so that a guest cannot write between the read and the write.
 * @throws BackingError with nothing to undo: the call can be repeated
 */
export function pull(image: Qcow2Image, { offset, length, base }: PullRange, buffer: Uint8Array): Pulled {
  const own = ownRun(image, offset, length)
  if (own.isOwn) return { length: own.length, copied: 0 }
  const { backing } = image
  if (backing === undefined) return { length: own.length, copied: 0 }
  const run = runAbove(backing, base, { offset, length: own.length })
  // Without a base, unallocated clusters will read as zeroes anyway.
  if (!run.isOwn || (run.isZero && base === undefined)) return { length: run.length, copied: 0 }
  if (run.isZero) {
    const most = Math.min(run.length, image.zeroesAtOnce)
    image.writeZeroes(offset, most, true)
    return { length: most, copied: 0 }
  }
  const piece = buffer.subarray(0, Math.min(run.length, buffer.length))
  image.pread(piece, offset)
  image.pwrite(piece, offset)
  return { length: piece.length, copied: piece.length }
}
