/** Which layer of a backing chain holds what: what an image has itself, and what the images above another one have together. */
import { checkRange } from "../../backing.ts"
import { L2_KIND } from "../format/entries.ts"
import { Qcow2Image } from "../image.ts"
import { Extent } from "../metadata/extent.ts"
import type { BackingDisk } from "../reader.ts"

/** A run of guest bytes that one layer answers for, or leaves to the layers below. */
export interface LayerRun {
  /** Bytes. */
  readonly length: number
  /** What it reads as comes from the layers that were asked about, not from below. */
  readonly isOwn: boolean
  /** It reads as zeroes, and is the layers' own. */
  readonly isZero: boolean
}

/** What `image` itself holds of the bytes from `offset` on: a run of at most `length` > 0. No more is looked at than one L2 table. */
export function ownRun(image: Qcow2Image, offset: number, length: number): LayerRun {
  checkRange(image.size, offset, length, image.path)
  const extent = new Extent()
  image.inspect(({ mapping }) => mapping.find(offset, length, extent))
  const isOwn = extent.kind !== L2_KIND.UNALLOCATED
  return { length: extent.length, isOwn, isZero: extent.kind === L2_KIND.ZERO || extent.kind === L2_KIND.ZERO_ALLOCATED }
}

/**
 * What `top` and the layers behind it, down to `base` and without it, hold of the bytes from `offset` on: at most `length` > 0. Where one
 * of them ends, it hides what is below by zeroes. Without `base`: the whole chain.
 */
export function runAbove(top: BackingDisk | undefined, base: BackingDisk | undefined, range: { offset: number; length: number }): LayerRun {
  const { offset } = range
  let { length } = range
  for (let layer = top; layer !== undefined && layer !== base;) {
    if (offset >= layer.size) return { length, isOwn: true, isZero: true }
    length = Math.min(length, layer.size - offset)
    if (!(layer instanceof Qcow2Image)) {
      const known = layer.allocation?.(offset, length)
      return { length: known?.length ?? length, isOwn: true, isZero: known?.isZero === true }
    }
    const run = ownRun(layer, offset, length)
    if (run.isOwn) return run
    length = run.length
    layer = layer.backing
  }
  return { length, isOwn: false, isZero: false }
}

/** `top` and all that is behind it, in order. */
export function* layersOf(top: BackingDisk): Generator<BackingDisk> {
  for (let layer: BackingDisk | undefined = top; layer !== undefined;) {
    yield layer
    layer = layer instanceof Qcow2Image ? layer.backing : undefined
  }
}
