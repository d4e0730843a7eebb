/**
 * The refcounts of the file's clusters: the refcount table, its blocks, and their growth. [QCOW2] "Host cluster management"
 * Everything here changes memory only; `MetadataWriter` brings it to disk in order. A count in memory is never below what the disk refers to.
 */
import { BackingError } from "../backing.ts"
import { getU64, setU64, viewOf } from "./format/bytes.ts"
import type { ClusterFile } from "./cluster-file.ts"
import { decodeRefcountTableEntry } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { ClusterList, MetadataMap } from "./metadata-map.ts"
import { type RefcountCodec, refcountCodec } from "./format/refcount-codec.ts"
import { LIMIT, TABLE_ENTRY_SIZE } from "./format/spec.ts"
import type { CachedTable, TableCache } from "./table-cache.ts"

/** Makes the error for metadata that cannot be right, after marking the image corrupt where it may be written. */
export type CorruptionReporter = (message: string, offset: number) => BackingError

/** Host bytes that a refcount table takes. */
export interface TablePlace {
  readonly offset: number
  readonly length: number
}

export const REFCOUNT_TABLE_NAME = "the refcount table"

export interface RefcountsOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly cache: TableCache
  readonly tableOffset: number
  readonly tableClusters: number
  readonly corrupt: CorruptionReporter
}

export class Refcounts implements ClusterList {
  readonly #geometry: Geometry
  readonly #codec: RefcountCodec
  readonly #cache: TableCache
  readonly #path: string
  readonly #corrupt: CorruptionReporter
  #metadata: MetadataMap | undefined
  #table: Uint8Array
  #view: DataView
  #offset: number
  #dirtyFrom = 0
  #dirtyTo = 0
  #unplaced = false
  #tableChecked = false
  /** Places that the header on disk may still name: the table has moved since it was last known to be stored. */
  #formerPlaces: TablePlace[] = []
  #memoIndex = -1
  #memo: CachedTable | undefined

  constructor(options: RefcountsOptions) {
    this.#geometry = options.geometry
    this.#codec = refcountCodec(options.geometry.refcountOrder)
    this.#cache = options.cache
    this.#path = options.file.path
    this.#corrupt = options.corrupt
    this.#offset = options.tableOffset
    this.#table = new Uint8Array(options.tableClusters * options.geometry.clusterSize)
    this.#view = viewOf(this.#table)
    options.file.read(this.#table, options.tableOffset)
  }

  /** Sets what is asked before a block is changed. The map lists this table's blocks, so neither can be made first. */
  protect(metadata: MetadataMap): void {
    this.#metadata = metadata
  }

  /** Host bytes and size of the table. */
  get table(): { readonly offset: number; readonly bytes: Uint8Array } {
    return { offset: this.#offset, bytes: this.#table }
  }

  /** The table has moved, and its content is not in its new place yet. */
  get isUnplaced(): boolean {
    return this.#unplaced
  }

  /** The table's content is on stable storage in its new place; the header may or may not name that. */
  placed(): void {
    this.#unplaced = false
    this.#dirtyFrom = 0
    this.#dirtyTo = 0
  }

  /** The dirty bytes of the table, or undefined. */
  get tableChange(): { readonly from: number; readonly to: number } | undefined {
    return this.#dirtyFrom === this.#dirtyTo ? undefined : { from: this.#dirtyFrom, to: this.#dirtyTo }
  }

  /** The header on disk may still name a place that the table has left. */
  get isPointerStale(): boolean {
    return this.#formerPlaces.length > 0
  }

  /** The table is on stable storage as it is here, and the header names it. Returns the places that it has left, to be freed. */
  stored(): readonly TablePlace[] {
    this.#dirtyFrom = 0
    this.#dirtyTo = 0
    const left = this.#formerPlaces
    this.#formerPlaces = []
    return left
  }

  /** Clusters that the table can describe. */
  get coveredClusters(): number {
    return (this.#table.length / TABLE_ENTRY_SIZE) * this.#geometry.refcountBlockEntries
  }

  /** The refcount of a host cluster; 0 where there is no block. */
  get(cluster: number): number {
    const block = this.block(Math.floor(cluster / this.#geometry.refcountBlockEntries))
    return block === undefined ? 0 : this.#codec.get(block.view, cluster % this.#geometry.refcountBlockEntries)
  }

  /** Adds `delta` to the refcount of a cluster that has a block. Throws when the result does not fit; nothing is changed then. */
  add(cluster: number, delta: number): number {
    const index = cluster % this.#geometry.refcountBlockEntries
    const block = this.block((cluster - index) / this.#geometry.refcountBlockEntries)
    const before = block === undefined ? 0 : this.#codec.get(block.view, index)
    const after = before + delta
    if (block === undefined || after < 0)
      throw this.#corrupt(
        `the refcount of the cluster at byte ${cluster * this.#geometry.clusterSize} is too small for the references to it`,
        cluster * this.#geometry.clusterSize,
      )
    if (after > this.#geometry.refcountMax)
      throw new BackingError("no-space", `the refcount of the cluster at byte ${cluster * this.#geometry.clusterSize} cannot grow beyond ${before}`, {
        path: this.#path,
      })
    this.#set(block, index, after)
    return after
  }

  /**
   * Finds the first free cluster from `from` on, and up to `most` free ones in a row, all described by one block; gives each the refcount 1.
   * Makes the block, and enlarges the table, when there are none. Returns the first cluster and how many.
   */
  take(from: number, most: number): { readonly first: number; readonly count: number } {
    const entries = this.#geometry.refcountBlockEntries
    let cluster = from
    for (;;) {
      if (cluster >= this.coveredClusters) this.#growTable()
      const index = Math.floor(cluster / entries)
      const block = this.block(index) ?? this.#createBlock(index)
      let at = cluster - index * entries
      while (at < entries && this.#codec.get(block.view, at) !== 0) at++
      if (at === entries) {
        cluster = (index + 1) * entries
        continue
      }
      let count = 1
      while (count < most && at + count < entries && this.#codec.get(block.view, at + count) === 0) count++
      const first = index * entries + at
      this.#checkFree(first, count)
      for (let step = 0; step < count; step++) this.#set(block, at + step, 1)
      return { first, count }
    }
  }

  /** The block at `index` of the table; undefined without one, and beyond the table. */
  block(index: number): CachedTable | undefined {
    // Consecutive questions are about neighbours: the memo saves decoding and the cache's map.
    if (index === this.#memoIndex && this.#memo?.resident === true) return this.#memo
    const at = index * TABLE_ENTRY_SIZE
    if (at >= this.#table.length) return undefined
    const entry = decodeRefcountTableEntry(this.#view.getUint32(at), this.#view.getUint32(at + 4), this.#geometry)
    if (entry.kind === "empty") return undefined
    if (entry.kind === "corrupt") throw this.#corrupt(`refcount table entry ${index}: ${entry.reason} (${entry.offset})`, this.#offset + at)
    this.#memo = this.#cache.load(entry.offset)
    this.#memoIndex = index
    return this.#memo
  }

  /**
   * Throws `corrupt` when two table entries name one block: no image needs that, and with it a small file could send the search for a free cluster
   * through a million full blocks.
   */
  refuseSharedBlocks(): void {
    const clusters: number[] = []
    this.forEach((cluster) => clusters.push(cluster))
    const sorted = Float64Array.from(clusters).sort()
    for (let at = 1; at < sorted.length; at++) {
      const cluster = sorted[at] ?? 0
      if (cluster === sorted[at - 1]) {
        const offset = cluster * this.#geometry.clusterSize
        throw new BackingError("corrupt", `two refcount table entries name the block at byte ${offset}: the image can only be opened read-only`, {
          path: this.#path,
          offset,
        })
      }
    }
  }

  contains(cluster: number): boolean {
    const offset = cluster * this.#geometry.clusterSize
    for (let at = 0; at < this.#table.length; at += TABLE_ENTRY_SIZE) {
      if (getU64(this.#view, at) === offset) return true
    }
    return false
  }

  forEach(visit: (cluster: number) => void): void {
    for (let at = 0; at < this.#table.length; at += TABLE_ENTRY_SIZE) {
      const entry = decodeRefcountTableEntry(this.#view.getUint32(at), this.#view.getUint32(at + 4), this.#geometry)
      if (entry.kind === "block") visit(entry.offset / this.#geometry.clusterSize)
    }
  }

  #set(block: CachedTable, index: number, value: number): void {
    if (block.dirtyFrom === block.dirtyTo) {
      const other = this.#metadata?.findForRefcountBlock(block.offset)
      if (other !== undefined) throw this.#corrupt(`the refcount block at byte ${block.offset} is ${other} as well`, block.offset)
    }
    this.#codec.set(block.view, index, value)
    const bits = this.#geometry.refcountBits
    const from = Math.floor((index * bits) / 8)
    this.#cache.touch(block, from, from + Math.max(1, bits / 8))
  }

  /** A new block takes the first cluster of its own range: all of the range is free, and the block counts itself (QC-REF-05). */
  #createBlock(index: number): CachedTable {
    const cluster = index * this.#geometry.refcountBlockEntries
    this.#checkFree(cluster, 1)
    const block = this.#placeBlock(index, cluster)
    this.#set(block, 0, 1)
    return block
  }

  /** Makes an empty block for entry `index` at host cluster `cluster` and enters it into the table. */
  #placeBlock(index: number, cluster: number): CachedTable {
    const offset = cluster * this.#geometry.clusterSize
    this.#checkTable()
    const block = this.#cache.create(offset, new Uint8Array(this.#geometry.clusterSize))
    setU64(this.#view, index * TABLE_ENTRY_SIZE, offset)
    this.#touchTable(index * TABLE_ENTRY_SIZE, (index + 1) * TABLE_ENTRY_SIZE)
    this.#metadata?.addRefcountBlock(offset)
    return block
  }

  /** Before the first change of the table: nothing else may lie in it. */
  #checkTable(): void {
    if (this.#tableChecked) return
    const other = this.#metadata?.findWithin({ offset: this.#offset, length: this.#table.length })
    if (other !== undefined) throw this.#corrupt(`the refcount table at byte ${this.#offset} holds ${other}`, this.#offset)
    this.#tableChecked = true
  }

  #touchTable(from: number, to: number): void {
    const clean = this.#dirtyFrom === this.#dirtyTo
    this.#dirtyFrom = clean ? from : Math.min(this.#dirtyFrom, from)
    this.#dirtyTo = clean ? to : Math.max(this.#dirtyTo, to)
  }

  /**
   * Moves the table to the first clusters that it cannot describe yet, half as large again, followed by the blocks for itself and for them
   * (QC-REF-06). All of that area is free by definition, so nothing has to be read and nothing can fail half-way.
   */
  #growTable(): void {
    const { clusterSize, refcountBlockEntries: entries } = this.#geometry
    const start = this.coveredClusters
    const oldEntries = this.#table.length / TABLE_ENTRY_SIZE
    const limit = LIMIT.REFCOUNT_TABLE_BYTES / clusterSize
    // Half as large again and a cluster more, but not above the limit, which is a multiple of every cluster size.
    const clusters = Math.min(Math.ceil((this.#table.length * 1.5) / clusterSize) + 1, limit)
    let blocks = 1
    while (blocks * entries < clusters + blocks) blocks++
    const newEntries = (clusters * clusterSize) / TABLE_ENTRY_SIZE
    if (oldEntries + blocks > newEntries || !Number.isSafeInteger((start + clusters + blocks) * clusterSize)) {
      throw new BackingError("no-space", `the image cannot grow: its refcount table has reached the limit of ${LIMIT.REFCOUNT_TABLE_BYTES} bytes`, {
        path: this.#path,
      })
    }
    this.#checkFree(start, clusters + blocks)
    this.#checkTable()
    const before = { offset: this.#offset, length: this.#table.length }
    const table = new Uint8Array(clusters * clusterSize)
    table.set(this.#table)
    this.#table = table
    this.#view = viewOf(table)
    this.#offset = start * clusterSize
    for (let step = 0; step < blocks; step++) this.#placeBlock(oldEntries + step, start + clusters + step)
    for (let cluster = start; cluster < start + clusters + blocks; cluster++) this.add(cluster, 1)
    this.#unplaced = true
    this.#formerPlaces.push(before)
    this.#metadata?.removeRange(before.offset, REFCOUNT_TABLE_NAME)
    this.#metadata?.addRanges([{ offset: this.#offset, length: table.length, name: REFCOUNT_TABLE_NAME }])
  }

  /** Clusters that are free by their refcounts must not hold metadata, least of all the header (QC-REF-09). */
  #checkFree(first: number, count: number): void {
    const { clusterSize } = this.#geometry
    const other = this.#metadata?.findForData(first * clusterSize, count * clusterSize)
    if (other !== undefined) throw this.#corrupt(`the cluster at byte ${first * clusterSize} is free by its refcount but holds ${other}`, first * clusterSize)
  }
}
