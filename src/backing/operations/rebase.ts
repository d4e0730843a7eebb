/** Rebase: gives an image another backing file, or none, so that it reads the same as before. */
import { BackingError } from "../backing.ts"
import { isEqual, isZero } from "../bytes/buffers.ts"
import type { Qcow2Image } from "../qcow2/image.ts"
import { changeBacking, forgetNextBacking, type NextBacking, prepareBacking } from "../qcow2/layers/change-backing.ts"
import { ownRun, runAbove } from "../qcow2/layers/layer-run.ts"
import type { BackingDisk } from "../qcow2/reader.ts"
import { type ChangeBehind, keepSnapshots } from "./keep-snapshots.ts"
import { explained, longRun, reachImage } from "./layer-steps.ts"
import { Operation, type OperationOptions, STEP_BYTES } from "./operation.ts"
import { Pace } from "./pace.ts"

export interface RebaseTarget extends NextBacking {
  /** A layer of the present chain with the same content as `disk`: data of this layer and those below need not be compared. */
  readonly same?: BackingDisk | undefined
}

/**
 * Copies into `image` the data on which its backing image and the next one differ, then replaces the backing image. Returns the old one,
 * which the caller closes. For internal snapshots, changing data is first copied into the image. After a stop or an error the image reads
 * as before, and the call can be repeated.
 * @throws BackingError; the signal's reason
 */
export async function rebaseLayers(image: Qcow2Image, target: RebaseTarget, options: OperationOptions): Promise<BackingDisk | undefined> {
  if (image.readOnly) throw new BackingError("read-only", "a rebase needs the image open for writing", { path: image.path })
  const operation = new Operation(image.size, options)
  prepareBacking(image, target)
  let isDone = false
  try {
    await keepSnapshots(reachImage("rebaseLayers", image), differencesOf(image, target), { operation, pace: new Pace(undefined) })
    await copyDifferences(image, target, operation)
    const old = changeBacking(image, target)
    isDone = true
    return old
  } catch (error) {
    throw explained(error, "the image keeps its backing file, and reads as before")
  } finally {
    if (!isDone) forgetNextBacking(image)
  }
}

/** The backing data change where the two chains differ, compared by clusters. */
function differencesOf(image: Qcow2Image, { disk, same }: RebaseTarget): ChangeBehind {
  const { clusterSize } = image.geometry
  const [present, future] = [new Uint8Array(clusterSize), new Uint8Array(clusterSize)]
  return (offset, length) => {
    const shared = same === undefined
      ? { length, isOwn: true }
      : longRun({ offset, length }, (at, most) => runAbove(image.backing, same, { offset: at, length: most }))
    if (!shared.isOwn) return { length: shared.length, isChanged: false }
    const range = { offset, length: shared.length }
    const zeroes = Math.min(...[image.backing, disk].map((one) => (one === undefined ? range.length : zeroRun(one, range))))
    if (zeroes > 0) return { length: zeroes, isChanged: false }
    const count = Math.min(range.length, clusterSize - (offset % clusterSize))
    readFrom(image.backing, present.subarray(0, count), offset)
    readFrom(disk, future.subarray(0, count), offset)
    return { length: count, isChanged: !isEqual(present.subarray(0, count), future.subarray(0, count)) }
  }
}

/** Fills `buffer`, with zeroes if there is no disk. */
function readFrom(disk: BackingDisk | undefined, buffer: Uint8Array, offset: number): void {
  const held = Math.max(0, Math.min(buffer.length, (disk?.size ?? 0) - offset))
  if (held > 0) disk?.pread(buffer.subarray(0, held), offset)
  buffer.fill(0, held)
}

async function copyDifferences(image: Qcow2Image, target: RebaseTarget, operation: Operation): Promise<void> {
  const comparison = new Comparison(image, target.disk)
  for (let offset = 0; offset < image.size;) {
    await operation.turn()
    const length = nextStep(image, target, comparison, offset)
    offset += length
    operation.advance(length)
  }
}

/** Handles some bytes from `offset` on, and returns their number. */
function nextStep(image: Qcow2Image, { disk, same }: RebaseTarget, comparison: Comparison, offset: number): number {
  const rest = { offset, length: image.size - offset }
  const run = longRun(rest, (at, length) => ownRun(image, at, length))
  if (run.isOwn) return run.length
  const range = { offset, length: run.length }
  if (same !== undefined) {
    const shared = longRun(range, (at, length) => runAbove(image.backing, same, { offset: at, length }))
    if (!shared.isOwn) return shared.length
    range.length = shared.length
  }
  const zeroes = Math.min(zeroRun(image, range), disk === undefined ? range.length : zeroRun(disk, range))
  return zeroes > 0 ? zeroes : comparison.step(range)
}

/** Number of bytes from the range's beginning that are known to be zero without reading them. */
function zeroRun(disk: BackingDisk, { offset, length }: { readonly offset: number; readonly length: number }): number {
  if (offset >= disk.size) return length
  const known = disk.allocation?.(offset, Math.min(length, disk.size - offset))
  return known?.isZero === true ? Math.min(known.length, length) : 0
}

/** Compares the present content of clusters with their content in the new chain, and stores those that would change. */
class Comparison {
  readonly #image: Qcow2Image
  readonly #next: BackingDisk | undefined
  readonly #present = new Uint8Array(STEP_BYTES)
  readonly #future = new Uint8Array(STEP_BYTES)

  constructor(image: Qcow2Image, next: BackingDisk | undefined) {
    this.#image = image
    this.#next = next
  }

  /** Compares whole clusters, or up to a boundary of the range; at most as many bytes as the buffers have. */
  step(range: { readonly offset: number; readonly length: number }): number {
    const { offset } = range
    const { clusterSize } = this.#image.geometry
    const end = Math.min(offset + range.length, Math.floor(offset / clusterSize) * clusterSize + STEP_BYTES)
    const present = this.#present.subarray(0, end - offset)
    const future = this.#future.subarray(0, end - offset)
    this.#image.pread(present, offset)
    readFrom(this.#next, future, offset)
    for (let at = 0; at < present.length;) {
      const count = Math.min(clusterSize - ((offset + at) % clusterSize), present.length - at)
      const content = present.subarray(at, at + count)
      if (!isEqual(content, future.subarray(at, at + count))) {
        if (isZero(content)) this.#image.writeZeroes(offset + at, count, true)
        else this.#image.pwrite(content, offset + at)
      }
      at += count
    }
    return present.length
  }
}
