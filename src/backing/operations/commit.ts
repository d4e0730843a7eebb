/** Commit: what the images above a base hold is written into the base, and the top image is emptied. */
import { BackingError } from "../backing.ts"
import { Qcow2Image } from "../qcow2/image.ts"
import { emptyTables } from "../qcow2/layers/empty.ts"
import { runAbove } from "../qcow2/layers/layer-run.ts"
import type { BackingDisk } from "../qcow2/reader.ts"
import { RawBacking } from "../raw.ts"
import { type ChangeBehind, keepSnapshots } from "./keep-snapshots.ts"
import { explained, longRun, reachImage } from "./layer-steps.ts"
import { Pace } from "./pace.ts"
import { Operation, type OperationOptions, STEP_BYTES } from "./operation.ts"

export interface CommitOptions extends OperationOptions {
  /** Leave the top image as it is, in place of emptying it. */
  readonly keep: boolean
  /** Bytes in a second that are copied at most. Default: as many as the host can. */
  readonly rate?: number
}

/**
 * Writes what `top` and the images between it and `base` hold into `base`, which is behind `top` and open for writing; then empties `top`,
 * unless it is to be kept. Nobody else may write to `top` meanwhile. A base that is smaller than `top` grows.
 *
 * Internal snapshots of `top` take over first what they read from behind it, and so go on showing what they did. Images between the two,
 * and others that stand on `base`, do not. A stop or an error leaves `top` as it was, or emptied in part, which reads the same: the call
 * can be made again.
 * @throws BackingError `invalid-argument` when `top` is to be emptied and does not stand on `base`; the signal's reason
 */
export async function commitLayers(top: Qcow2Image, base: Qcow2Image | RawBacking, options: CommitOptions): Promise<void> {
  if (top.readOnly || base.readOnly) {
    throw new BackingError("read-only", "commit needs the image and its base open for writing", { path: base.path })
  }
  if (!options.keep && top.backing !== base) {
    const message = "only an image that stands on the base is emptied after a commit: the images between hide the base; set keep"
    throw new BackingError("invalid-argument", message, { path: top.path })
  }
  const operation = new Operation(top.size, options)
  const pace = new Pace(options.rate)
  try {
    await keepSnapshots(reachImage("commitLayers", top), changesBy(top, base), { operation, pace })
    top.flush()
    if (top.size > base.size) await growBase(base, top.size, operation)
    await copyDown(top, base, { operation, pace })
    base.flush()
  } catch (error) {
    throw explained(error, `${top.path} still holds all of it: commit again when this is mended`)
  }
  if (options.keep) return
  for (let next = 0, entries = 1; next < entries;) {
    await operation.turn()
    const step = emptyTables(top, next)
    next = step.next
    entries = step.entries
  }
  top.flush()
}

/**
 * What is new is zeroes, as the top reads what it does not hold there. A stop or a crash leaves a base that the next commit goes on with.
 */
async function growBase(base: Qcow2Image | RawBacking, size: number, operation: Operation): Promise<void> {
  if (!(base instanceof RawBacking) || !base.isEncrypted) return base.resize(size)
  while (base.size < size) {
    await operation.turn()
    base.growByZeroes(Math.min(base.size + STEP_BYTES, size))
  }
}

/** What is behind `top` changes where layers above `base` hold something, unless a layer in between hides it. */
function changesBy(top: Qcow2Image, base: BackingDisk): ChangeBehind {
  return (offset, length) => {
    if (offset >= top.size) return { length, isChanged: false }
    const above = runAbove(top, base, { offset, length: Math.min(length, top.size - offset) })
    if (!above.isOwn) return { length: above.length, isChanged: false }
    const between = runAbove(top.backing, base, { offset, length: above.length })
    return { length: between.length, isChanged: !between.isOwn }
  }
}

async function copyDown(
  top: Qcow2Image, base: Qcow2Image | RawBacking, { operation, pace }: { operation: Operation; pace: Pace },
): Promise<void> {
  const buffer = new Uint8Array(STEP_BYTES)
  for (let offset = 0; offset < top.size;) {
    await operation.turn()
    const run = longRun({ offset, length: top.size - offset }, (at, length) => runAbove(top, base, { offset: at, length }))
    const length = Math.min(run.length, run.isZero ? base.zeroesAtOnce : run.isOwn ? STEP_BYTES : run.length)
    if (run.isZero) base.writeZeroes(offset, length, true)
    else if (run.isOwn) {
      const piece = buffer.subarray(0, length)
      top.pread(piece, offset)
      base.pwrite(piece, offset)
      await pace.spend(length, () => operation.throwIfStopped())
    }
    offset += length
    operation.advance(length)
  }
}
