/** Stream: copies the data of backing files into an image while a guest uses it, so that the image needs them no more. */
import { checkCount, checkOptions, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import type { OpenedDisk } from "../open-disk.ts"
import { Qcow2Image } from "../qcow2/image.ts"
import { changeBacking, forgetNextBacking, type NextBacking, prepareBacking } from "../qcow2/layers/change-backing.ts"
import { layersOf, runAbove } from "../qcow2/layers/layer-run.ts"
import { pull } from "../qcow2/layers/pull.ts"
import type { BackingDisk } from "../qcow2/reader.ts"
import { type ChangeBehind, keepSnapshots } from "./keep-snapshots.ts"
import { explained, findLayer, reachImage, type ReachedImage, referenceTo, tablesOf } from "./layer-steps.ts"
import { Operation, OPERATION_RULES, type OperationOptions } from "./operation.ts"
import { Pace, type PaceClock } from "./pace.ts"

/** Options of `streamDisk`. */
export interface StreamOptions extends OperationOptions {
  /**
   * The image in the chain that stays the disk's backing file: its path, or its name in the image above it. Default: none, so that the disk
   * has no backing file afterwards.
   */
  readonly base?: string
  /** Maximum of bytes copied a second. Default: no limit. */
  readonly rate?: number
  /** The clock for `rate`. Default: the host's. */
  readonly clock?: PaceClock
}

const STREAM_RULES: Rules<StreamOptions> = { ...OPERATION_RULES, base: "string?", rate: "number?", clock: "object?" }

/** Bytes of one step, for which a guest's request may have to wait. */
const STEP = 1 << 19

/**
 * Copies the data of the images below `disk` into it, then drops them from the chain: the image's header names `base`, or no backing file.
 * A guest may use the disk, and its writes are kept. If it is stopped or fails, the next call continues. Data that internal snapshots read
 * from these images is copied, too.
 *
 * @param disk a qcow2 image that is open for writing, as `openImage` and `openDisk` return it
 * @throws BackingError `read-only`; errors of reading the chain and writing the image. The signal's reason. Then the image reads as before,
 * over the same backing file.
 * @throws TypeError for wrong arguments
 */
export async function streamDisk(disk: Qcow2Image | OpenedDisk, options: StreamOptions = {}): Promise<void> {
  checkOptions("streamDisk", options, STREAM_RULES)
  checkCount("streamDisk", "rate", options.rate, 1)
  const reached = reachImage("streamDisk", disk)
  const { image } = reached
  if (image.readOnly) throw new BackingError("read-only", "streaming needs the image open for writing", { path: image.path })
  const base = options.base === undefined ? undefined : findLayer(image, options.base, (_, name) => name)
  if (image.backing === undefined || image.backing === base) return
  const operation = new Operation(image.size, options)
  const next = { reference: base === undefined ? undefined : referenceTo(image, base), disk: base }
  prepareBacking(image, next)
  try {
    const pace = new Pace(options.rate, options.clock)
    for (let isDone = false; !isDone;) {
      // If the tables have changed, there may be other snapshots, or the data copied before may be gone.
      const tables = await keepSnapshots(reached, dropsOf(image, base), { operation, pace })
      await pullAll(reached, base, { operation, pace })
      isDone = await dropLayers(reached, next, tables)
    }
  } catch (error) {
    throw explained(error, "the image reads as before; stream again when the error is fixed, to continue")
  } finally {
    forgetNextBacking(image)
  }
}

/** The backing data change where a layer above `base` has data; without a base zeroes stay zeroes. */
function dropsOf(image: Qcow2Image, base: BackingDisk | undefined): ChangeBehind {
  return (offset, length) => {
    const run = runAbove(image.backing, base, { offset, length })
    return { length: run.length, isChanged: run.isOwn && !(run.isZero && base === undefined) }
  }
}

async function pullAll(
  { image, perform }: ReachedImage, base: BackingDisk | undefined, { operation, pace }: { operation: Operation; pace: Pace },
): Promise<void> {
  const buffer = new Uint8Array(STEP)
  for (let offset = 0; offset < image.size;) {
    await operation.turn()
    const at = offset
    const done = await perform("changes", () => pull(image, { offset: at, length: image.size - at, base }, buffer))
    offset += done.length
    operation.advance(done.length)
    await pace.spend(done.copied, () => operation.throwIfStopped())
  }
}

/** Returns false, with nothing done, if the whole image has changed since it had these tables. */
async function dropLayers({ image, perform, retire }: ReachedImage, next: NextBacking, tables: object | undefined): Promise<boolean> {
  const base = next.disk
  const dropped = await perform("changes", () => {
    return tablesOf(image) === tables ? changeBacking(image, next) : image
  })
  if (dropped === image) return false
  if (dropped === undefined) return true
  for (const layer of layersOf(dropped)) if (layer instanceof Qcow2Image && layer.backing === base && base !== undefined) detach(layer)
  retire(dropped)
  return true
}

/** Makes closing `layer` leave its backing file open. */
function detach(layer: Qcow2Image): void {
  layer.inspect(({ backing }) => void (backing.disk = undefined))
}
