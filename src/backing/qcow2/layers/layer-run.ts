/** Finds the allocated runs of an image, and of the images of a backing chain above a base. */
import { checkRange } from "../../backing.ts"
import { L2_KIND } from "../format/entries.ts"
import { Qcow2Image } from "../image.ts"
import { Extent } from "../metadata/extent.ts"
import type { BackingDisk } from "../reader.ts"

/** A run of guest bytes that one layer supplies, or that the layers below supply. */
export interface LayerRun {
  /** Bytes. */
  readonly length: number
  /** The queried layers supply its content, not the layers below them. */
  readonly isOwn: boolean
  /** `isOwn`, and it reads as zeroes. */
  readonly isZero: boolean
}

/** The run of `image` itself at `offset`, of at most `length` > 0 bytes. Reads at most one L2 table. */
export function ownRun(image: Qcow2Image, offset: number, length: number): LayerRun {
  checkRange(image.size, offset, length, image.path)
  const extent = new Extent()
  image.inspect(({ mapping }) => mapping.find(offset, length, extent))
  const isOwn = extent.kind !== L2_KIND.UNALLOCATED
  return { length: extent.length, isOwn, isZero: extent.kind === L2_KIND.ZERO || extent.kind === L2_KIND.ZERO_ALLOCATED }
}

/**
 * The run of the layers from `top` down to `base`, without `base`, at `offset`, of at most `length` > 0 bytes. Past its end a layer reads
 * as zeroes, which hide the layers below. Without `base`: the whole chain.
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

/** `top` and all its backing images, in order. */
export function* layersOf(top: BackingDisk): Generator<BackingDisk> {
  for (let layer: BackingDisk | undefined = top; layer !== undefined;) {
    yield layer
    layer = layer instanceof Qcow2Image ? layer.backing : undefined
  }
}
