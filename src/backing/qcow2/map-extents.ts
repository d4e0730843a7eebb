/** The mapping as a list for people and tools: what `vioblk map` shows. */
import { Extent } from "./metadata/extent.ts"
import { L2_KIND } from "./format/entries.ts"
import type { Mapping } from "./metadata/mapping.ts"

/** A run of guest bytes and where it lives. */
export interface MapExtent {
  /** Guest byte and length in bytes. */
  readonly offset: number
  readonly length: number
  /**
   * "data": in the file at `hostOffset`. "zero": reads as zeroes; `hostOffset` if a place is kept for it. "compressed": one cluster.
   * "backing": not in this image, so what the backing image holds, or zeroes.
   */
  readonly kind: "data" | "zero" | "compressed" | "backing"
  /** Byte in the image file. */
  readonly hostOffset: number | undefined
}

/** The extents of `length` guest bytes from `offset`, in order, neighbours of one kind merged. The mapping may throw `corrupt`. */
export function* mapExtents(mapping: Mapping, offset: number, length: number): Generator<MapExtent> {
  const extent = new Extent()
  let pending: MapExtent | undefined
  for (let done = 0; done < length; done += extent.length) {
    mapping.find(offset + done, length - done, extent)
    const next = describeExtent(extent, offset + done)
    const merged: MapExtent | undefined = pending === undefined ? undefined : mergeExtents(pending, next)
    if (pending !== undefined && merged === undefined) yield pending
    pending = merged ?? next
  }
  if (pending !== undefined) yield pending
}

function describeExtent(extent: Extent, offset: number): MapExtent {
  const { kind, length, host } = extent
  switch (kind) {
    case L2_KIND.NORMAL:
      return { offset, length, kind: "data", hostOffset: host }
    case L2_KIND.ZERO_ALLOCATED:
      return { offset, length, kind: "zero", hostOffset: host }
    case L2_KIND.ZERO:
      return { offset, length, kind: "zero", hostOffset: undefined }
    case L2_KIND.COMPRESSED:
      return { offset, length, kind: "compressed", hostOffset: undefined }
    case L2_KIND.UNALLOCATED:
      return { offset, length, kind: "backing", hostOffset: undefined }
    case L2_KIND.CORRUPT:
      throw new Error("the mapping found a corrupt entry and went on")
  }
}

/** Both as one extent, or undefined when they are not one. Compressed clusters stay apart: each is stored on its own. */
function mergeExtents(first: MapExtent, next: MapExtent): MapExtent | undefined {
  if (first.kind !== next.kind || first.kind === "compressed") return undefined
  const continues = first.hostOffset === undefined ? next.hostOffset === undefined : first.hostOffset + first.length === next.hostOffset
  return continues ? { ...first, length: first.length + next.length } : undefined
}
