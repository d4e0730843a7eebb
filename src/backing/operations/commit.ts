/** Commit: writes the data of the images above a base into the base, and empties the top image. */
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
  /** Do not empty the top image. */
  readonly keep: boolean
  /** Maximum of bytes copied a second. Default: no limit. */
  readonly rate?: number
}

/**
 * Writes the data of `top`, and of the images between it and `base`, into `base`, which is below `top` in its chain and open for writing.
 * Then empties `top`, unless `keep` is set. Nobody else may write to `top` meanwhile. A base that is smaller than `top` grows.
 *
 * Internal snapshots of `top` keep their content: data that they read from backing files is first copied into `top`. Images between the
 * two, and other overlays of `base`, change. After a stop or an error, `top` is unchanged or partly emptied, which reads the same, so the
 * call can be repeated.
 * @throws BackingError `invalid-argument` if `top` is to be emptied and `base` is not its backing file; the signal's reason
 */
export async function commitLayers(top: Qcow2Image, base: Qcow2Image | RawBacking, options: CommitOptions): Promise<void> {
  if (top.readOnly || base.readOnly) {
    throw new BackingError("read-only", "commit needs the image and its base open for writing", { path: base.path })
  }
  if (!options.keep && top.backing !== base) {
    const message = "set keep: images between this one and the base hide the base, so this one cannot be emptied"
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
    throw explained(error, `${top.path} still has all of its data: commit again when the error is fixed`)
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
 * Grows the base by zeroes, which is what the top reads beyond the old end. After a stop or a crash, the next commit continues.
 */
async function growBase(base: Qcow2Image | RawBacking, size: number, operation: Operation): Promise<void> {
  if (!(base instanceof RawBacking) || !base.isEncrypted) return base.resize(size)
  while (base.size < size) {
    await operation.turn()
    base.growByZeroes(Math.min(base.size + STEP_BYTES, size))
  }
}

/** The backing data of `top` change where a layer above `base` has data, unless a layer in between hides it. */
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
