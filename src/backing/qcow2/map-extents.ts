/** The mapping for people and tools: as a list of extents for `vioblk map`, and as allocated and zero runs for NBD clients. */
import type { Allocation } from "../backing.ts"
import { Extent } from "./metadata/extent.ts"
import { L2_KIND } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { Mapping } from "./metadata/mapping.ts"
import type { Reader } from "./reader.ts"

/** A run of guest bytes and where it is stored. */
export interface MapExtent {
  /** Guest byte and length in bytes. */
  readonly offset: number
  readonly length: number
  /**
   * "data": in the file at `hostOffset`. "zero": reads as zeroes; `hostOffset` if it is allocated. "compressed": one cluster. "backing":
   * not in this image; reads from the backing image, or as zeroes.
   */
  readonly kind: "data" | "zero" | "compressed" | "backing"
  /** Byte in the image file. */
  readonly hostOffset: number | undefined
}

/** Entries of L2 tables that one step may look at, in a few milliseconds. */
const ENTRIES_AT_ONCE = 1 << 19

/**
 * The extents of `length` guest bytes from `offset`, in order, neighbours of one kind merged as long as a step takes few milliseconds.
 * `mapping` is called before each look-up, because the image may replace its mapping. Reading it may throw `corrupt`.
 */
export function* mapExtents(
  mapping: () => Mapping, { l2Entries }: Pick<Geometry, "l2Entries">, offset: number, length: number,
): Generator<MapExtent> {
  const extent = new Extent()
  const mostTables = ENTRIES_AT_ONCE / l2Entries
  let pending: MapExtent | undefined
  let tables = 0
  for (let done = 0; done < length; done += extent.length) {
    mapping().find(offset + done, length - done, extent)
    const next = describeExtent(extent, offset + done)
    const merged: MapExtent | undefined = pending === undefined || tables >= mostTables ? undefined : mergeExtents(pending, next)
    if (pending !== undefined && merged === undefined) {
      yield pending
      tables = 0
    }
    tables++
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

/** Both as one extent, or undefined if they cannot be merged. Compressed clusters are never merged: each is stored separately. */
function mergeExtents(first: MapExtent, next: MapExtent): MapExtent | undefined {
  if (first.kind !== next.kind || first.kind === "compressed") return undefined
  const continues = first.hostOffset === undefined ? next.hostOffset === undefined : first.hostOffset + first.length === next.hostOffset
  return continues ? { ...first, length: first.length + next.length } : undefined
}

/** The parts that `findAllocation` queries. */
export interface AllocationSource {
  readonly mapping: Mapping
  readonly reader: Pick<Reader, "backing" | "backingEnd">
}

/** The allocation of at most `length` > 0 guest bytes from `offset`. Reads at most one L2 table in this image and in each backing image. */
export function findAllocation({ mapping, reader }: AllocationSource, offset: number, length: number): Allocation {
  const extent = new Extent()
  mapping.find(offset, length, extent)
  if (extent.kind !== L2_KIND.UNALLOCATED) {
    const isZero = extent.kind === L2_KIND.ZERO || extent.kind === L2_KIND.ZERO_ALLOCATED
    return { length: extent.length, isAllocated: extent.kind !== L2_KIND.ZERO, isZero }
  }
  const { backing, backingEnd } = reader
  if (backing === undefined || offset >= backingEnd) return { length: extent.length, isAllocated: false, isZero: true }
  const held = Math.min(extent.length, backingEnd - offset)
  return backing.allocation?.(offset, held) ?? { length: held, isAllocated: true, isZero: false }
}
