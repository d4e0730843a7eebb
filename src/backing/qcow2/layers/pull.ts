/** Copies what the layers behind an image hold into the image itself, piece by piece, while the image is in use. */
import type { Qcow2Image } from "../image.ts"
import type { BackingDisk } from "../reader.ts"
import { ownRun, runAbove } from "./layer-run.ts"

export interface PullRange {
  readonly offset: number
  /** Bytes; more than 0. */
  readonly length: number
  /** The layer that stays behind the image; what it holds is not copied. */
  readonly base: BackingDisk | undefined
}

/** What one call of `pull` has done. */
export interface Pulled {
  /** Bytes from the offset on that need nothing more. */
  readonly length: number
  /** Bytes of them that were read from the layers behind and stored. */
  readonly copied: number
}

/**
 * Makes a run of bytes from `offset` on the image's own where layers above `base` hold them: at most `buffer.length` bytes, which are read
 * into `buffer`. All in one synchronous call: what is found to be not the image's own cannot be written by a guest before it is stored.
 * @throws BackingError with nothing to undo: the call can be made again
 */
export function pull(image: Qcow2Image, { offset, length, base }: PullRange, buffer: Uint8Array): Pulled {
  const own = ownRun(image, offset, length)
  if (own.isOwn) return { length: own.length, copied: 0 }
  const { backing } = image
  if (backing === undefined) return { length: own.length, copied: 0 }
  const run = runAbove(backing, base, { offset, length: own.length })
  // Where nothing stays behind, what is not the image's own reads as zeroes anyway.
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
