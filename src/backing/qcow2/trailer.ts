/**
 * Trailer: bytes that another program has appended to an image file (gondolin does). They are preserved: new clusters are allocated after
 * them, and closing the image moves them to the end of the file again.
 *
 * Meanwhile their clusters have the refcount 1: after a crash they are leaked clusters, which nobody overwrites.
 */
import type { Geometry } from "./format/geometry.ts"
import { MOST_TRAILING, readTrailingBytes, type TrailingBytes } from "./format/trailing-bytes.ts"
import type { ClusterFile } from "./metadata/cluster-file.ts"
import type { ClusterRun } from "./metadata/l2-view.ts"
import type { Mapping } from "./metadata/mapping.ts"
import type { MetadataMap } from "./metadata/metadata-map.ts"
import type { MetadataWriter } from "./metadata/metadata-writer.ts"
import type { Refcounts } from "./metadata/refcounts.ts"

export interface TrailerParts {
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly refcounts: Refcounts
  readonly metadata: MetadataMap
  readonly metadataWriter: MetadataWriter
}

interface Kept extends TrailingBytes {
  /** The clusters that only the trailer uses. None if it is inside a cluster of the image. */
  readonly clusters: ClusterRun
}

export class Trailer {
  readonly #file: ClusterFile
  #kept: Kept | undefined
  /** The search is done, and a trailer that was found is safe from being overwritten. */
  #isSafe: boolean

  constructor(file: ClusterFile) {
    this.#file = file
    // A file of fixed size, for instance a device or an NBD export, has no trailer.
    this.#isSafe = file.largestSize !== Number.POSITIVE_INFINITY
  }

  /** Protects a trailer, if there is one. Call it before any allocation. @throws errors of reading and storing; it can be repeated */
  keep(parts: TrailerParts): void {
    if (this.#isSafe) return
    this.#kept ??= this.#find(parts)
    if (this.#kept !== undefined) {
      const { refcounts, metadataWriter } = parts
      const { first, count } = this.#kept.clusters
      if (count > 0) {
        reserve(refcounts, parts.geometry, { first, count })
        metadataWriter.storeAllocated()
      }
      this.#file.keepEnd()
    }
    this.#isSafe = true
  }

  #find({ geometry, mapping, refcounts, metadata }: TrailerParts): Kept | undefined {
    const { clusterSize } = geometry
    const to = this.#file.usedEnd
    const end = Math.ceil(to / clusterSize)
    let first = end
    while (first > 0 && refcounts.get(first - 1) === 0 && (end - first) * clusterSize < MOST_TRAILING) first--
    const { offset, length } = mapping.l1.place
    const found = readTrailingBytes(this.#file, { from: first * clusterSize, l1End: offset + length, to, clusterSize })
    if (found === undefined) return undefined
    const start = first === end ? end : found.offset / clusterSize
    // The refcounts are wrong. Allocating such a cluster will detect it.
    if (metadata.findForData(start * clusterSize, (end - start) * clusterSize) !== undefined) return undefined
    return { ...found, clusters: { first: start, count: end - start } }
  }

  /**
   * Moves the trailer after the last used cluster, and ends the file there. Call it when everything is stored. Returns whether there is a
   * trailer. With `mayGoDown` it also moves to free space before its present place.
   * @throws BackingError; then the trailer has not moved, and the call can be repeated
   */
  settle(parts: TrailerParts, { mayGoDown }: { readonly mayGoDown: boolean }): boolean {
    const kept = this.#kept
    if (kept === undefined) return false
    const { bytes, offset, clusters } = kept
    const place = this.#placeFor(kept, parts, mayGoDown)
    if (place !== offset) {
      this.#file.write(bytes, place)
      this.#file.sync()
    }
    this.#file.cutTo(place + bytes.length)
    // Freed without punching holes: the trailer may still be in these clusters.
    const end = clusters.first + clusters.count
    for (let cluster = clusters.first; cluster < end; cluster++) if (parts.refcounts.get(cluster) > 0) parts.refcounts.add(cluster, -1)
    this.#kept = undefined
    this.#isSafe = false
    parts.metadataWriter.finish()
    return true
  }

  #placeFor({ bytes, offset, clusters }: Kept, { geometry, refcounts }: TrailerParts, mayGoDown: boolean): number {
    const { clusterSize } = geometry
    const { usedEnd } = this.#file
    const limit = Math.ceil(usedEnd / clusterSize) + Math.ceil(bytes.length / clusterSize)
    const end = refcounts.endOfUse(limit, clusters) * clusterSize
    if (clusters.count > 0 && end <= offset) return mayGoDown && end + bytes.length <= offset ? end : offset
    return usedEnd <= offset + bytes.length ? offset : end
  }
}

/** Gives free clusters the refcount 1. New refcount blocks go after them. @throws BackingError; it can be repeated */
function reserve(refcounts: Refcounts, { refcountBlockEntries: entries }: Geometry, { first, count }: ClusterRun): void {
  const end = first + count
  if (end > refcounts.coveredClusters) refcounts.growTable(end)
  for (let index = Math.floor((end - 1) / entries); index * entries > first - entries; index--) {
    if (refcounts.block(index) !== undefined) continue
    if (end < (index + 1) * entries) {
      refcounts.placeBlock(index, end)
      refcounts.add(end, 1)
    } else {
      refcounts.placeBlock(index, refcounts.take(end, 1).first)
    }
  }
  for (let cluster = first; cluster < end; cluster++) if (refcounts.get(cluster) === 0) refcounts.add(cluster, 1)
}
