/** Keeps the content of internal snapshots before backing data change: copies the data that they read from backing files into the image. */
import { isZero } from "../bytes/buffers.ts"
import type { Qcow2Image } from "../qcow2/image.ts"
import { ownRun } from "../qcow2/layers/layer-run.ts"
import type { Replacement } from "../qcow2/snapshots/replace-clusters.ts"
import { type ReachedImage, tablesOf } from "./layer-steps.ts"
import { type Operation, STEP_BYTES } from "./operation.ts"
import type { Pace } from "./pace.ts"

/** Whether the backing data will change: for at most `length` bytes from `offset` on. */
export type ChangeBehind = (offset: number, length: number) => { readonly length: number; readonly isChanged: boolean }

/** Runs that one step examines. */
const MOST_RUNS = 256

interface Position {
  /** The `tablesOf` the image after the last step. They differ if snapshots may have been added or removed since. */
  readonly tables: object | undefined
  readonly index: number
  /** Byte of the snapshot's disk. */
  readonly offset: number
}

/**
 * For each snapshot, copies the backing data that will change into the image. Resolves to the `tablesOf` the image for which this was done:
 * if they change, there may be other snapshots. @throws BackingError
 */
export async function keepSnapshots(
  { image, perform }: ReachedImage, willChange: ChangeBehind, { operation, pace }: { operation: Operation; pace: Pace },
): Promise<object | undefined> {
  let position: Position = { tables: undefined, index: 0, offset: 0 }
  for (let isDone = false; !isDone;) {
    await operation.turn()
    const from = position
    const step = await perform("changes", () => keepSome(image, from, willChange))
    await pace.spend(step.copied, () => operation.throwIfStopped())
    position = step.next
    isDone = step.isDone
  }
  return position.tables
}

/** Continues from `position`; starts again if the whole image has changed (`tablesOf`). */
function keepSome(
  image: Qcow2Image, position: Position, willChange: ChangeBehind,
): { readonly next: Position; readonly isDone: boolean; readonly copied: number } {
  const list = image.snapshots.list()
  const tables = tablesOf(image)
  const { index, offset } = tables === position.tables ? position : { index: 0, offset: 0 }
  if (index >= list.length) return { next: { tables, index, offset }, isDone: true, copied: 0 }
  const view = image.snapshots.openAt(index)
  let found: { readonly next: number; readonly replacements: readonly Replacement[] }
  try {
    if (offset >= view.size) return { next: { tables, index: index + 1, offset: 0 }, isDone: false, copied: 0 }
    found = findChanging(view, offset, willChange)
  } finally {
    view.close()
  }
  image.snapshots.replaceClusters(index, found.replacements)
  const next = { tables: tablesOf(image), index, offset: found.next }
  return { next, isDone: false, copied: found.replacements.length * image.geometry.clusterSize }
}

/** The clusters from `from` on that a snapshot reads at least partly from backing files, with their content. */
function findChanging(view: Qcow2Image, from: number, willChange: ChangeBehind): { next: number; replacements: Replacement[] } {
  const { clusterSize } = view.geometry
  const most = Math.max(1, STEP_BYTES / clusterSize)
  const replacements: Replacement[] = []
  let at = from
  for (let runs = 0; runs < MOST_RUNS && at < view.size && replacements.length < most; runs++) {
    const run = ownRun(view, at, view.size - at)
    const change = run.isOwn ? { length: run.length, isChanged: false } : willChange(at, run.length)
    if (!change.isChanged) {
      at += Math.min(run.length, change.length)
      continue
    }
    const cluster = Math.floor(at / clusterSize)
    replacements.push({ cluster, content: contentOf(view, cluster * clusterSize, clusterSize) })
    at = (cluster + 1) * clusterSize
  }
  return { next: at, replacements }
}

/** A whole cluster, with zeroes beyond the end of the disk. */
function contentOf(view: Qcow2Image, offset: number, clusterSize: number): Uint8Array | "zeroes" {
  const content = new Uint8Array(clusterSize)
  view.pread(content.subarray(0, Math.min(clusterSize, view.size - offset)), offset)
  return isZero(content) ? "zeroes" : content
}
