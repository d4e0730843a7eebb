/**
 * The refcounts of the file's clusters: the refcount table, its blocks, and their growth. [QCOW2] "Host cluster management". Changes memory
 * only; `MetadataWriter` stores it in the right order. A count in memory is never below the number of references on disk.
 */
import { BackingError } from "../../backing.ts"
import type { ClusterFile } from "./cluster-file.ts"
import { decodeRefcountTableEntry } from "../format/entries.ts"
import type { Geometry } from "../format/geometry.ts"
import { firstZeroRefcount, type RefcountCodec, refcountCodec } from "../format/refcount-codec.ts"
import { LIMIT, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { ClusterRun } from "./l2-view.ts"
import type { ClusterList } from "./cluster-index.ts"
import type { MetadataMap } from "./metadata-map.ts"
import { planTable, tableFull } from "./refcount-growth.ts"
import type { CachedTable, TableCache } from "./table-cache.ts"
import { TopTable } from "./top-table.ts"

/** Bytes of refcount blocks that one search for a free cluster examines, in about 2 ms, and the overhead of a block in bytes. */
const MOST_LOOKED_AT = 1024 * 1024
const BLOCK_OVERHEAD = 4096

export interface RefcountsOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly cache: TableCache
  readonly tableOffset: number
  readonly tableClusters: number
  /** The content of the table, if it is known: then it is not read. */
  readonly content?: Uint8Array | undefined
}

export class Refcounts implements ClusterList {
  readonly table: TopTable
  readonly #file: ClusterFile
  readonly #geometry: Geometry
  /** The first cluster beyond the maximum size of the file. */
  readonly clusterLimit: number = 0
  /** The cluster that `Packer` fills with compressed data. -1 after it has been freed, because it may have a new owner. */
  filling = -1
  readonly #codec: RefcountCodec
  readonly #cache: TableCache
  #metadata: MetadataMap | undefined
  #memoIndex = -1
  #memo: CachedTable | undefined

  /** Reads the refcount table. @throws BackingError what reading throws */
  constructor(options: RefcountsOptions) {
    const { file, geometry, tableOffset, tableClusters } = options
    const place = { offset: tableOffset, length: tableClusters * geometry.clusterSize, name: "the refcount table" }
    this.table = new TopTable(file, place, options.content)
    this.#file = file
    this.#geometry = geometry
    this.clusterLimit = Math.floor(file.largestSize / geometry.clusterSize)
    this.#codec = refcountCodec(geometry.refcountOrder)
    this.#cache = options.cache
  }

  /** Sets the map that is checked before a block changes. Not done by the constructor, because the map lists this table's blocks. */
  protect(metadata: MetadataMap): void {
    this.#metadata = metadata
  }

  /** Clusters that the table can describe. */
  get coveredClusters(): number {
    return this.table.entryCount * this.#geometry.refcountBlockEntries
  }

  /** The refcount of a host cluster; 0 without a block. */
  get(cluster: number): number {
    const block = this.block(Math.floor(cluster / this.#geometry.refcountBlockEntries))
    return block === undefined ? 0 : this.#codec.get(block.view, cluster % this.#geometry.refcountBlockEntries)
  }

  /**
   * Adds `delta` to the refcount of a cluster that has a block, and returns the sum. If the sum does not fit, throws and changes nothing.
   */
  add(cluster: number, delta: number): number {
    const { clusterSize, refcountBlockEntries, refcountMax } = this.#geometry
    const index = cluster % refcountBlockEntries
    const block = this.block((cluster - index) / refcountBlockEntries)
    const before = block === undefined ? 0 : this.#codec.get(block.view, index)
    const after = before + delta
    const offset = cluster * clusterSize
    if (block === undefined || after < 0) {
      throw this.#file.corrupt(`the refcount of the cluster at byte ${offset} is too small for the references to it`, offset)
    }
    if (after > refcountMax) {
      const message = `the refcount of the cluster at byte ${offset} cannot grow beyond ${before}`
      throw new BackingError("no-space", message, { path: this.#file.path })
    }
    this.#set(block, index, after)
    if (after === 0 && cluster === this.filling) this.filling = -1
    return after
  }

  /**
   * Takes the first free cluster from `from` on, and up to `most` contiguous ones in the same block; sets their refcounts to 1. Makes a
   * missing block, and enlarges the table if necessary. Searches for a few milliseconds: if it finds only full blocks, the count is 0, and
   * the search has to continue at `first`, or ends if that is `clusterLimit`.
   */
  take(from: number, most: number): ClusterRun {
    const { refcountBlockEntries: entries, refcountOrder, clusterSize } = this.#geometry
    let cluster = from
    for (let looked = 0; looked < MOST_LOOKED_AT; looked += clusterSize + BLOCK_OVERHEAD) {
      const hasRoom = cluster < this.clusterLimit && (cluster < this.coveredClusters || this.growTable())
      if (!hasRoom) return { first: this.clusterLimit, count: 0 }
      const index = Math.floor(cluster / entries)
      const block = this.block(index) ?? this.#createBlock(index)
      const at = firstZeroRefcount(block.view, refcountOrder, cluster - index * entries, entries)
      const left = this.clusterLimit - index * entries - at
      if (at < entries && left > 0) return this.#takeFrom(block, index, at, Math.min(most, left))
      cluster = (index + 1) * entries
    }
    return { first: cluster, count: 0 }
  }

  /** Takes up to `most` clusters from entry `at` of a block, whose refcount is 0. */
  #takeFrom(block: CachedTable, index: number, at: number, most: number): ClusterRun {
    const entries = this.#geometry.refcountBlockEntries
    let count = 1
    while (count < most && at + count < entries && this.#codec.get(block.view, at + count) === 0) count++
    const first = index * entries + at
    this.#checkFree(first, count)
    this.#set(block, at, 1, count)
    return { first, count }
  }

  /**
   * Takes `count` contiguous clusters, as many as the caller wants, and sets their refcounts to 1. They are the first ones after the range
   * of the last block, followed by their own new blocks, which would otherwise lie between them. The count is 0 if the file has no room.
   */
  takeInRow(count: number): ClusterRun {
    const { clusterSize, refcountBlockEntries } = this.#geometry
    let blocks = 1
    while (blocks * refcountBlockEntries < count + blocks) blocks++
    let index = this.firstUnused()
    while (index + blocks > this.table.entryCount) {
      if (!this.growTable()) return { first: this.clusterLimit, count: 0 }
      index = this.firstUnused()
    }
    const start = index * refcountBlockEntries
    if (start + count + blocks > this.clusterLimit || !Number.isSafeInteger((start + count + blocks) * clusterSize)) {
      return { first: this.clusterLimit, count: 0 }
    }
    this.#checkFree(start, count + blocks)
    for (let step = 0; step < blocks; step++) this.placeBlock(index + step, start + count + step)
    for (let cluster = start; cluster < start + count + blocks; cluster++) this.add(cluster, 1)
    return { first: start, count }
  }

  /** Index of the table entry after the last one that names a block. */
  firstUnused(): number {
    const { table } = this
    let index = table.entryCount
    while (index > 0 && table.hi(index - 1) === 0 && table.lo(index - 1) === 0) index--
    return index
  }

  /** First cluster of the first range without a block: the whole range is free. Walks the table. */
  firstUndescribed(): number {
    const { table } = this
    let index = 0
    while (index < table.entryCount && (table.hi(index) !== 0 || table.lo(index) !== 0)) index++
    return index * this.#geometry.refcountBlockEntries
  }

  /** The cluster after the last used one below `limit`, or 0. Ignores the given run. Reads blocks from the end. */
  endOfUse(limit: number, { first, count }: ClusterRun = { first: 0, count: 0 }): number {
    const { refcountBlockEntries: entries } = this.#geometry
    // Metadata counts as used even if its refcounts are wrong or missing.
    const least = this.#metadata?.endBelow(limit) ?? 0
    for (let cluster = limit - 1; cluster >= least; cluster--) {
      const start = cluster - (cluster % entries)
      if (this.block(start / entries) === undefined) cluster = start
      else if (this.get(cluster) !== 0 && (cluster < first || cluster >= first + count)) return cluster + 1
    }
    return least
  }

  /** Grows with each block that is read: a measure of time. */
  get loadedBytes(): number {
    return this.#cache.loadedBytes
  }

  /** So many blocks are dirty that they should be stored before the next change. */
  get isCrowded(): boolean {
    return this.#cache.isCrowded
  }

  /** The block at `index` of the table; undefined without one, and beyond the table. @throws CorruptMetadata */
  block(index: number): CachedTable | undefined {
    // Consecutive look-ups are usually in the same block: the memo saves decoding the entry, and a look-up in the cache.
    if (index === this.#memoIndex && this.#memo?.resident === true) return this.#memo
    const entry = decodeRefcountTableEntry(this.table.hi(index), this.table.lo(index), this.#geometry)
    if (entry.kind === "empty") return undefined
    if (entry.kind === "corrupt") {
      throw this.#file.corrupt(`refcount table entry ${index}: ${entry.reason} (${entry.offset})`, this.table.offsetOf(index))
    }
    this.#memo = this.#cache.load(entry.offset)
    this.#memoIndex = index
    return this.#memo
  }

  /**
   * Refuses a table in which two entries name one block: no image needs that, and a small file could make the search for a free cluster
   * visit a million full blocks. @throws BackingError `corrupt`
   */
  refuseSharedBlocks(): void {
    const clusters: number[] = []
    this.forEach((cluster) => clusters.push(cluster))
    const sorted = Float64Array.from(clusters).sort()
    for (let at = 1; at < sorted.length; at++) {
      if (sorted[at] !== sorted[at - 1]) continue
      const offset = (sorted[at] ?? 0) * this.#geometry.clusterSize
      throw this.#file.corrupt(
        `two refcount table entries refer to the block at byte ${offset}: the image can only be opened read-only`,
        offset,
      )
    }
  }

  get mostEntries(): number {
    return LIMIT.REFCOUNT_TABLE_BYTES / TABLE_ENTRY_SIZE
  }

  forEach(visit: (cluster: number) => void): void {
    for (let index = 0, end = this.firstUnused(); index < end; index++) {
      const entry = decodeRefcountTableEntry(this.table.hi(index), this.table.lo(index), this.#geometry)
      if (entry.kind === "block") visit(entry.offset / this.#geometry.clusterSize)
    }
  }

  /** Sets `count` refcounts of a block from `index` on. */
  #set(block: CachedTable, index: number, value: number, count = 1): void {
    if (block.dirty.isEmpty) {
      const other = this.#metadata?.findForRefcountBlock(block.offset)
      if (other !== undefined) throw this.#file.corrupt(`the refcount block at byte ${block.offset} is ${other} as well`, block.offset)
    }
    for (let at = index; at < index + count; at++) this.#codec.set(block.view, at, value)
    const bits = this.#geometry.refcountBits
    this.#cache.touch(block, Math.floor((index * bits) / 8), Math.ceil(((index + count) * bits) / 8))
  }

  /** Makes a new block in the first cluster of its own range: the whole range is free, and the block counts itself (QC-REF-05). */
  #createBlock(index: number): CachedTable {
    const block = this.placeBlock(index, index * this.#geometry.refcountBlockEntries)
    this.#set(block, 0, 1)
    return block
  }

  /** Makes an empty block for entry `index` at the free host cluster `cluster`, and sets the entry. */
  placeBlock(index: number, cluster: number): CachedTable {
    const offset = cluster * this.#geometry.clusterSize
    this.#checkFree(cluster, 1)
    if (this.#metadata !== undefined) this.table.prepareChange(this.#metadata)
    const block = this.#cache.create(offset, new Uint8Array(this.#geometry.clusterSize))
    this.table.set(index, Math.floor(offset / 2 ** 32), offset % 2 ** 32)
    this.#metadata?.addRefcountBlock(offset)
    return block
  }

  /**
   * Moves the table, 1.5 times as large, to the first clusters that it does not describe yet, or to cluster `behind` if that is higher. The
   * blocks for that area follow it (QC-REF-06). The area is free by definition, so nothing is read, and nothing can fail half-way. Returns
   * false, and does nothing, if the file has no room.
   */
  growTable(behind = this.coveredClusters): boolean {
    const { clusterSize } = this.#geometry
    const before = this.table.place
    const oldEntries = this.table.entryCount
    const plan = planTable(this.#geometry, { length: before.length, behind })
    if (plan === undefined) throw tableFull(this.#file.path)
    const { start, clusters, blocks } = plan
    if (start + clusters + blocks > this.clusterLimit) return false
    this.#checkFree(start, clusters + blocks)
    if (this.#metadata !== undefined) this.table.prepareChange(this.#metadata)
    this.table.move(start * clusterSize, clusters * clusterSize)
    for (let step = 0; step < blocks; step++) this.placeBlock(oldEntries + step, start + clusters + step)
    for (let cluster = start; cluster < start + clusters + blocks; cluster++) this.add(cluster, 1)
    this.#metadata?.removeRange(before)
    this.#metadata?.addRanges([this.table.place])
    return true
  }

  /** Whether the cluster has the refcount 0, and no metadata is there. */
  isFree(cluster: number): boolean {
    const { clusterSize } = this.#geometry
    return this.get(cluster) === 0 && this.#metadata?.findForData(cluster * clusterSize, clusterSize) === undefined
  }

  /** Refuses to take clusters with refcount 0 that hold metadata, above all the header (QC-REF-09). */
  #checkFree(first: number, count: number): void {
    const { clusterSize } = this.#geometry
    const other = this.#metadata?.findForData(first * clusterSize, count * clusterSize)
    if (other === undefined) return
    const offset = first * clusterSize
    throw this.#file.corrupt(`the cluster at byte ${offset} is free by its refcount but holds ${other}`, offset)
  }
}
