/**
 * MetadataMap: the metadata of the file, checked before every write, so that no guest data overwrites it even if L2 entries or refcounts
 * are wrong. It has the header, the active L1 and L2 tables, the refcount table and its blocks, the snapshot table, the snapshots' L1
 * tables and, on request, the snapshots' L2 tables.
 */

import { ClusterFilter } from "./cluster-filter.ts"
import { ClusterIndex, type ClusterList } from "./cluster-index.ts"

interface Range {
  readonly start: number
  readonly end: number
  readonly name: string
}

/** A contiguous structure of the file, in bytes, with its name for messages. */
export interface MetadataRange {
  readonly offset: number
  readonly length: number
  readonly name: string
}

/** The structures of single clusters. */
export interface MetadataLists {
  readonly l2Tables: ClusterList
  readonly refcountBlocks: ClusterList
  /** The L2 tables of snapshots, if they are protected. */
  readonly inactiveL2Tables?: ClusterList | undefined
}

const INACTIVE_L2_TABLE = "an L2 table of a snapshot"

export class MetadataMap {
  readonly #clusterSize: number = 0
  readonly #l2Tables: ClusterIndex
  readonly #refcountBlocks: ClusterIndex
  readonly #inactiveL2Tables: ClusterIndex | undefined
  /** The clusters of all lists. For most data it alone shows that it is not metadata. */
  #filter = new ClusterFilter(0)
  /** Sorted by start. */
  #ranges: Range[] = []
  /** For each range, the one with the highest end among it and all earlier ones. */
  #furthest: Range[] = []
  /** End of the last range. Most data is beyond it. */
  #rangesEnd = 0

  /** Reads the lists. */
  constructor(clusterSize: number, lists: MetadataLists) {
    this.#clusterSize = clusterSize
    this.#l2Tables = new ClusterIndex(lists.l2Tables)
    this.#refcountBlocks = new ClusterIndex(lists.refcountBlocks)
    this.#inactiveL2Tables = lists.inactiveL2Tables === undefined ? undefined : new ClusterIndex(lists.inactiveL2Tables)
    this.#makeFilter()
  }

  /** Adds contiguous structures; their lengths are rounded up to whole clusters. */
  addRanges(ranges: readonly MetadataRange[]): void {
    for (const { offset, length, name } of ranges) {
      if (length > 0) this.#ranges.push({ start: offset, end: offset + Math.ceil(length / this.#clusterSize) * this.#clusterSize, name })
    }
    this.#sort()
  }

  /** Removes the range with this offset and name. */
  removeRange({ offset, name }: MetadataRange): void {
    this.#ranges = this.#ranges.filter((range) => range.start !== offset || range.name !== name)
    this.#sort()
  }

  /** Two ranges that share a cluster, or undefined. */
  findCollision(): readonly [string, string] | undefined {
    for (let index = 1; index < this.#ranges.length; index++) {
      const range = this.#ranges[index]
      const before = this.#furthest[index - 1]
      if (range !== undefined && before !== undefined && before.end > range.start) return [before.name, range.name]
    }
    return undefined
  }

  addL2Table(offset: number): void {
    this.#l2Tables.add(offset / this.#clusterSize)
    this.#addToFilter(offset / this.#clusterSize)
  }

  /** Notes that an L1 entry no longer names this table. */
  removeL2Table(offset: number): void {
    this.#l2Tables.remove(offset / this.#clusterSize)
  }

  addRefcountBlock(offset: number): void {
    this.#refcountBlocks.add(offset / this.#clusterSize)
    this.#addToFilter(offset / this.#clusterSize)
  }

  /** Name of the metadata that guest data of `length` bytes at host byte `offset` would overwrite, or undefined. */
  findForData(offset: number, length: number): string | undefined {
    const first = Math.floor(offset / this.#clusterSize)
    const end = Math.ceil((offset + length) / this.#clusterSize)
    return this.#findRange(first * this.#clusterSize, end * this.#clusterSize) ?? this.#findTable(first, end)
  }

  /** Name of other metadata in the cluster of the L2 table at `offset`, or undefined. */
  findForL2Table(offset: number): string | undefined {
    const cluster = offset / this.#clusterSize
    if (this.#inactiveL2Tables?.has(cluster) === true) return INACTIVE_L2_TABLE
    return this.#findRange(offset, offset + this.#clusterSize) ?? (this.#refcountBlocks.has(cluster) ? "a refcount block" : undefined)
  }

  /** Name of other metadata in the cluster of the refcount block at `offset`, or undefined. */
  findForRefcountBlock(offset: number): string | undefined {
    return this.#findRange(offset, offset + this.#clusterSize) ??
      (this.#l2Tables.has(offset / this.#clusterSize) ? "an L2 table" : undefined)
  }

  /** Name of a contiguous structure that shares a cluster with this one, or undefined. */
  findRange({ offset, length }: { readonly offset: number; readonly length: number }): string | undefined {
    const [first, end] = [Math.floor(offset / this.#clusterSize), Math.ceil((offset + length) / this.#clusterSize)]
    return this.#findRange(first * this.#clusterSize, end * this.#clusterSize)
  }

  /** Name of a single metadata cluster within a contiguous structure, or undefined. */
  findWithin(range: { readonly offset: number; readonly length: number }): string | undefined {
    return this.#findTable(Math.floor(range.offset / this.#clusterSize), Math.ceil((range.offset + range.length) / this.#clusterSize))
  }

  /** The cluster after the last metadata cluster below `limit`, or 0. Visits all metadata. */
  endBelow(limit: number): number {
    let end = 0
    const note = (cluster: number): void => void (end = cluster < limit ? Math.max(end, cluster + 1) : end)
    for (const list of [this.#l2Tables, this.#refcountBlocks, this.#inactiveL2Tables]) list?.forEach(note)
    for (const range of this.#ranges) {
      const last = Math.min(Math.ceil(range.end / this.#clusterSize), limit) - 1
      if (last * this.#clusterSize >= range.start) note(last)
    }
    return end
  }

  #findTable(first: number, end: number): string | undefined {
    for (let cluster = first; cluster < end; cluster++) {
      if (!this.#filter.mayHave(cluster)) continue
      if (this.#l2Tables.has(cluster)) return "an L2 table"
      if (this.#refcountBlocks.has(cluster)) return "a refcount block"
      if (this.#inactiveL2Tables?.has(cluster) === true) return INACTIVE_L2_TABLE
    }
    return undefined
  }

  #addToFilter(cluster: number): void {
    this.#filter.add(cluster)
    if (this.#filter.isFull) this.#makeFilter()
  }

  #makeFilter(): void {
    const filter = new ClusterFilter(this.#l2Tables.size + this.#refcountBlocks.size + (this.#inactiveL2Tables?.size ?? 0))
    this.#l2Tables.forEach((cluster) => filter.add(cluster))
    this.#refcountBlocks.forEach((cluster) => filter.add(cluster))
    this.#inactiveL2Tables?.forEach((cluster) => filter.add(cluster))
    this.#filter = filter
  }

  #findRange(start: number, end: number): string | undefined {
    if (start >= this.#rangesEnd) return undefined
    let low = 0
    let high = this.#ranges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const range = this.#ranges[middle]
      if (range !== undefined && range.start < end) low = middle + 1
      else high = middle
    }
    const furthest = this.#furthest[low - 1]
    return furthest !== undefined && furthest.end > start ? furthest.name : undefined
  }

  #sort(): void {
    this.#ranges.sort((a, b) => a.start - b.start)
    this.#furthest = []
    let furthest: Range | undefined
    for (const range of this.#ranges) {
      if (furthest === undefined || range.end > furthest.end) furthest = range
      this.#furthest.push(furthest)
    }
    this.#rangesEnd = furthest?.end ?? 0
  }
}
