/**
 * Mapping: where each guest byte is stored, by the active L1 table and its L2 tables. [QCOW2] "Cluster mapping". A look-up reads no data. A
 * change of an entry changes memory only; `MetadataWriter` stores it in the right order.
 */
import type { Allocator } from "./allocator.ts"
import type { ClusterFile, CorruptMetadata } from "./cluster-file.ts"
import type { DataClusters } from "./data-clusters.ts"
import type { Extent } from "./extent.ts"
import { decodeL1Entry, encodeEntry, isCopied, l1TableOffset, L2_KIND } from "../format/entries.ts"
import type { Geometry } from "../format/geometry.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { ExtendedL2View, holdsSubclusters } from "./extended-l2-view.ts"
import { L2View, plainHost, type SubclusterRange } from "./l2-view.ts"
import type { MetadataMap } from "./metadata-map.ts"
import type { Refcounts } from "./refcounts.ts"
import type { CachedTable, TableCache } from "./table-cache.ts"
import { TopTable } from "./top-table.ts"

/** A power of two. */
const SLOTS = 64

/** Entries of the L1 table that one look-up passes, in about 1 ms. */
const PASSED_AT_ONCE = 1 << 18

/** The parts that changes of the mapping need. */
export interface MappingWriter {
  readonly allocator: Allocator
  /** The clusters that L2 entries refer to. */
  readonly dataClusters: DataClusters
  readonly refcounts: Refcounts
  readonly metadata: MetadataMap
}

export interface MappingOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly cache: TableCache
  readonly l1TableOffset: number
  /** Entries. */
  readonly l1Size: number
  /** The content of the L1 table, if it is known: then it is not read. */
  readonly content?: Uint8Array | undefined
}

export class Mapping {
  readonly l1: TopTable
  readonly l2: L2View
  readonly #file: ClusterFile
  readonly #geometry: Geometry
  readonly #cache: TableCache
  /** Clusters per byte, and tables per cluster. Multiplying by a power of two is exact, and much faster than a remainder of doubles. */
  readonly #perByte: number = 0
  readonly #perCluster: number = 0
  readonly #perSubclusterByte: number = 0
  readonly #clusterSize: number = 0
  readonly #l2EntrySize: number
  readonly #l2Entries: number
  readonly #hasDataFile: boolean
  #writer: MappingWriter | undefined
  /** The tables of the last look-ups, by the low bits of their L1 index: saves decoding the L1 entry, and a look-up in the cache. */
  readonly #slots: (CachedTable | undefined)[] = Array.from({ length: SLOTS }, () => undefined)

  /** Reads the L1 table. @throws BackingError what reading throws */
  constructor(options: MappingOptions) {
    const { file, geometry, l1TableOffset: offset } = options
    this.#file = file
    this.#geometry = geometry
    this.#cache = options.cache
    this.l1 = new TopTable(file, { offset, length: options.l1Size * TABLE_ENTRY_SIZE, name: "the L1 table" }, options.content)
    this.l2 = geometry.extendedL2 ? new ExtendedL2View(geometry, options.cache) : new L2View(geometry, options.cache)
    this.#perByte = 1 / geometry.clusterSize
    this.#perCluster = 1 / geometry.l2Entries
    this.#perSubclusterByte = 1 / geometry.subclusterSize
    this.#clusterSize = geometry.clusterSize
    this.#l2EntrySize = geometry.l2EntrySize
    this.#l2Entries = geometry.l2Entries
    this.#hasDataFile = geometry.hasDataFile
  }

  /** Permits changes. Not done by the constructor, because the allocator needs the metadata map, and that needs these tables. */
  makeWritable(writer: MappingWriter): void {
    this.#writer = writer
  }

  /** Number of the guest cluster that holds the byte at `offset`. */
  clusterOf(offset: number): number {
    return Math.floor(offset * this.#perByte)
  }

  /** L1 index of the table that maps guest cluster `cluster`. */
  tableOf(cluster: number): number {
    return Math.floor(cluster * this.#perCluster)
  }

  /** Index of the entry of guest cluster `cluster` in that table. */
  indexOf(cluster: number): number {
    return cluster - this.tableOf(cluster) * this.#l2Entries
  }

  /**
   * Host byte of guest byte `offset`, if `length` bytes from there are in one normal cluster whose table is in `#slots`. Otherwise -1: then
   * call `find`.
   */
  hostOf(offset: number, length: number): number {
    const clusterSize = this.#clusterSize
    const cluster = Math.floor(offset * this.#perByte)
    const l1Index = Math.floor(cluster * this.#perCluster)
    const table = this.#slots[l1Index & (SLOTS - 1)]
    const within = offset - cluster * clusterSize
    if (table === undefined || table.l1Index !== l1Index || !table.resident || within + length > clusterSize) return -1
    table.used = true
    const index = cluster - l1Index * this.#l2Entries
    const host = plainHost(table.view, index, this.#l2EntrySize, clusterSize)
    if (host < 0 || (this.#l2EntrySize !== TABLE_ENTRY_SIZE && !this.#holds(table, index, within, length))) return -1
    return this.#hasDataFile && host !== offset - within ? -1 : host + within
  }

  /**
   * Fills `extent` for the guest bytes from `offset`: at most `length` of them. Reads one L2 table, and does not go beyond its coverage.
   * Subclusters and clusters that are contiguous in the host file become one extent. @throws CorruptMetadata
   */
  find(offset: number, length: number, extent: Extent): void {
    const { l2 } = this
    const { clusterSize, l2Entries, subclusters, subclusterSize } = this.#geometry
    const cluster = this.clusterOf(offset)
    const table = this.table(this.tableOf(cluster))
    const within = offset - cluster * clusterSize
    let index = this.indexOf(cluster)
    if (table === undefined) {
      extent.kind = L2_KIND.UNALLOCATED
      extent.length = Math.min(length, this.#emptyBytes(cluster, within + length) - within)
      return
    }
    const subcluster = Math.floor(within * this.#perSubclusterByte)
    const kind = l2.kind(table, index, subcluster)
    let end = subcluster + l2.run(table, index, subcluster, kind)
    let found = end * subclusterSize - within
    extent.kind = kind
    if (kind >= L2_KIND.COMPRESSED) {
      if (kind === L2_KIND.CORRUPT) throw this.corruptEntry(table, index)
      extent.host = l2.compressedOffset(table, index)
      extent.stored = l2.compressedLength(table, index)
      extent.within = within
    } else {
      const host = l2.host(table, index) + within
      extent.host = host
      if (kind === L2_KIND.UNALLOCATED && end === subclusters && found < length) {
        const empty = l2.emptyEntries(table, index + 1, Math.ceil((length - found) * this.#perByte))
        index += empty
        found += empty * clusterSize
      }
      while (found < length && end === subclusters && ++index < l2Entries && l2.continues(table, index, kind, host + found)) {
        end = l2.run(table, index, 0, kind)
        found += end * subclusterSize
      }
    }
    extent.length = found < length ? found : length
  }

  /**
   * Host byte where `length` guest bytes from `offset`, or the first of them, can be written in place: to clusters that nothing else refers
   * to, and allocated subclusters. Sets the length in `extent`. -1 if the first byte cannot.
   */
  findInPlace(offset: number, length: number, extent: Extent): number {
    const { l2 } = this
    const { clusterSize, l2Entries, subclusters, subclusterSize } = this.#geometry
    const cluster = this.clusterOf(offset)
    const table = this.#ownTable(this.tableOf(cluster))
    if (table === undefined) return -1
    let index = this.indexOf(cluster)
    const within = offset - cluster * clusterSize
    const subcluster = Math.floor(within * this.#perSubclusterByte)
    if (!l2.isCopied(table, index) || l2.kind(table, index, subcluster) !== L2_KIND.NORMAL) return -1
    const host = l2.host(table, index) + within
    let end = subcluster + l2.run(table, index, subcluster, L2_KIND.NORMAL)
    let found = end * subclusterSize - within
    while (
      found < length && end === subclusters && ++index < l2Entries && l2.isCopied(table, index) &&
      l2.continues(table, index, L2_KIND.NORMAL, host + found)
    ) {
      end = l2.run(table, index, 0, L2_KIND.NORMAL)
      found += end * subclusterSize
    }
    extent.length = found < length ? found : length
    return host
  }

  /** The L2 table for `l1Index`, or undefined if it is not allocated. @throws CorruptMetadata */
  table(l1Index: number): CachedTable | undefined {
    const table = this.#slots[l1Index & (SLOTS - 1)]
    if (table === undefined || table.l1Index !== l1Index || !table.resident) return this.#select(l1Index)
    table.used = true
    return table
  }

  /** The L2 table for `l1Index`, to be changed: allocates a missing one, and copies one that a snapshot shares (QC-L1-04). */
  tableForWrite(l1Index: number): CachedTable {
    const own = this.#ownTable(l1Index)
    if (own === undefined) return this.#newTable(l1Index)
    if (own.dirty.isEmpty) this.#checkTarget(own)
    return own
  }

  /**
   * Gives entry `index` of a table from `tableForWrite` the cluster at host byte `host`, and drops its old references. `subclusters` become
   * allocated; the others keep their kinds.
   */
  replace(table: CachedTable, index: number, host: number, subclusters: SubclusterRange): void {
    const old = this.l2.references(table, index)
    this.l2.setNormal(table, index, host, subclusters.from, subclusters.to)
    if (old !== undefined) this.#needWriter().dataClusters.releaseLater(old.first, old.count)
  }

  /** Makes entry `index` of a table from `tableForWrite` refer to nothing, and drops its old references. */
  clear(table: CachedTable, index: number): void {
    const old = this.l2.references(table, index)
    this.l2.setZero(table, index)
    if (old !== undefined) this.#needWriter().dataClusters.releaseLater(old.first, old.count)
  }

  /** The error for entry `index` of `table`, which is invalid. */
  corruptEntry(table: CachedTable, index: number): CorruptMetadata {
    const reason = this.l2.problem(table, index)
    return this.#file.corrupt(`entry ${index} of the L2 table at byte ${table.offset}: ${reason}`, this.l2.offsetOf(table, index))
  }

  /** How many bytes from guest cluster `cluster` on are without an L2 table: about `most` at the most. */
  #emptyBytes(cluster: number, most: number): number {
    const { clusterSize, l2Entries, l2Coverage } = this.#geometry
    const next = this.tableOf(cluster) + 1
    const covered = (next * l2Entries - cluster) * clusterSize
    if (most <= covered) return covered
    return covered + this.l1.emptyEntries(next, Math.min(Math.ceil((most - covered) / l2Coverage), PASSED_AT_ONCE)) * l2Coverage
  }

  /** Whether `length` bytes from byte `within` of a cluster are in allocated subclusters. */
  #holds(table: CachedTable, index: number, within: number, length: number): boolean {
    const to = Math.ceil((within + length) * this.#perSubclusterByte)
    return holdsSubclusters(table.view, index, Math.floor(within * this.#perSubclusterByte), to)
  }

  /** The L2 table for `l1Index`, if it is allocated and no snapshot shares it. */
  #ownTable(l1Index: number): CachedTable | undefined {
    const table = this.table(l1Index)
    return table?.isOwn === true ? table : undefined
  }

  #newTable(l1Index: number): CachedTable {
    const { allocator, refcounts, metadata } = this.#needWriter()
    const { clusterSize } = this.#geometry
    const shared = this.table(l1Index)
    this.l1.prepareChange(metadata)
    // Read before allocating: an error then leaves nothing to undo.
    const isReferredElsewhere = shared !== undefined && refcounts.get(shared.offset / clusterSize) > 1
    const { first } = allocator.allocate(1)
    const table = this.#cache.create(first * clusterSize, shared === undefined ? new Uint8Array(clusterSize) : shared.bytes.slice())
    if (isReferredElsewhere) this.l2.clearCopied(table)
    const { hi, lo } = encodeEntry({ offset: table.offset, copied: true })
    this.l1.set(l1Index, hi, lo)
    metadata.addL2Table(table.offset)
    if (shared !== undefined) {
      metadata.removeL2Table(shared.offset)
      allocator.releaseLater(shared.offset / clusterSize, 1)
    }
    return this.#remember(l1Index, table, { isOwn: true })
  }

  #select(l1Index: number): CachedTable | undefined {
    // Beyond the L1 table nothing is allocated (QC-L1-05).
    const hi = this.l1.hi(l1Index)
    const offset = l1TableOffset(hi, this.l1.lo(l1Index), this.#geometry)
    if (offset < 0) throw this.#corruptL1Entry(l1Index)
    if (offset === 0) return undefined
    return this.#remember(l1Index, this.#cache.load(offset), { isOwn: isCopied(hi) })
  }

  #remember(l1Index: number, table: CachedTable, { isOwn }: { readonly isOwn: boolean }): CachedTable {
    table.l1Index = l1Index
    table.isOwn = isOwn
    this.#slots[l1Index & (SLOTS - 1)] = table
    return table
  }

  #corruptL1Entry(l1Index: number): CorruptMetadata {
    const entry = decodeL1Entry(this.l1.hi(l1Index), this.l1.lo(l1Index), this.#geometry)
    const reason = entry.kind === "corrupt" ? `${entry.reason} (${entry.offset})` : "it is invalid"
    return this.#file.corrupt(`L1 entry ${l1Index}: ${reason}`, this.l1.offsetOf(l1Index))
  }

  /** Refuses to change a table whose cluster is other metadata as well. */
  #checkTarget(table: CachedTable): void {
    const other = this.#needWriter().metadata.findForL2Table(table.offset)
    if (other !== undefined) throw this.#file.corrupt(`the L2 table at byte ${table.offset} is ${other} as well`, table.offset)
  }

  #needWriter(): MappingWriter {
    if (this.#writer === undefined) throw new Error("the mapping of a read-only image was about to change")
    return this.#writer
  }
}
