/**
 * Where each guest byte lives: the active L1 table and its L2 tables. [QCOW2] "Cluster mapping"
 * Looking up touches no data. Changing an entry changes memory only; `MetadataWriter` brings it to disk in order.
 */
import type { BackingError } from "../backing.ts"
import type { Allocator } from "./allocator.ts"
import { viewOf } from "./format/bytes.ts"
import type { ClusterFile } from "./cluster-file.ts"
import { decodeL1Entry, decodeL2Entry, encodeEntry, hostOffset, isCopied, l1TableOffset, L2_KIND, type L2Kind, l2Kind, plainHostOffset } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { ClusterList, MetadataMap } from "./metadata-map.ts"
import type { CorruptionReporter, Refcounts } from "./refcounts.ts"
import { L2_ENTRY, TABLE_ENTRY_SIZE } from "./format/spec.ts"
import type { CachedTable, TableCache } from "./table-cache.ts"

/** A run of guest bytes of one kind, and of contiguous host bytes where it has them. One object is filled again and again. */
export class Extent {
  kind: L2Kind = L2_KIND.UNALLOCATED
  /** Guest bytes from the offset that was asked for. */
  length = 0
  /** Host byte of the first one: kinds NORMAL and ZERO_ALLOCATED. */
  host = 0
  /** The L2 entry of the first cluster, and the first byte's place in it: kind COMPRESSED. */
  hi = 0
  lo = 0
  within = 0
}

/** A power of two. */
const SLOTS = 64

/** One L2 table that was looked up. */
class TableSlot {
  l1Index = -1
  table: CachedTable | undefined
  /** No snapshot shares it. */
  isOwn = false

  fill(l1Index: number, table: CachedTable, isOwn: boolean): void {
    this.l1Index = l1Index
    this.table = table
    this.isOwn = isOwn
  }
}

/** What changing the mapping takes. */
export interface MappingWriter {
  readonly allocator: Allocator
  readonly refcounts: Refcounts
  readonly metadata: MetadataMap
}

export interface MappingOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly cache: TableCache
  readonly l1TableOffset: number
  readonly l1Size: number
  readonly corrupt: CorruptionReporter
}

export class Mapping implements ClusterList {
  readonly #geometry: Geometry
  readonly #cache: TableCache
  readonly #corrupt: CorruptionReporter
  readonly #l1: Uint8Array
  readonly #l1View: DataView
  readonly #l1Offset: number
  /** Clusters by bytes and tables by clusters: multiplying by a power of two is exact, and far cheaper than a remainder of doubles. */
  readonly #perByte: number
  readonly #perCluster: number
  #writer: MappingWriter | undefined
  #l1DirtyFrom = 0
  #l1DirtyTo = 0
  #l1Checked = false
  /** The tables looked up last, by the low bits of their L1 index: saves decoding the L1 entry and the cache's map (measured: 10 ns of 60). */
  readonly #slots: readonly TableSlot[] = Array.from({ length: SLOTS }, () => new TableSlot())

  constructor(options: MappingOptions) {
    this.#geometry = options.geometry
    this.#cache = options.cache
    this.#corrupt = options.corrupt
    this.#l1Offset = options.l1TableOffset
    this.#l1 = new Uint8Array(options.l1Size * TABLE_ENTRY_SIZE)
    this.#l1View = viewOf(this.#l1)
    this.#perByte = 1 / options.geometry.clusterSize
    this.#perCluster = 1 / options.geometry.l2Entries
    if (this.#l1.length > 0) options.file.read(this.#l1, options.l1TableOffset)
  }

  /** Permits changes. The allocator needs the map of metadata, which lists these tables, so neither can be made first. */
  makeWritable(writer: MappingWriter): void {
    this.#writer = writer
  }

  /** Host bytes of the L1 table. */
  get l1(): { readonly offset: number; readonly bytes: Uint8Array } {
    return { offset: this.#l1Offset, bytes: this.#l1 }
  }

  /** The dirty bytes of the L1 table, or undefined. */
  get l1Change(): { readonly from: number; readonly to: number } | undefined {
    return this.#l1DirtyFrom === this.#l1DirtyTo ? undefined : { from: this.#l1DirtyFrom, to: this.#l1DirtyTo }
  }

  /** The L1 table is on stable storage as it is here. */
  l1Stored(): void {
    this.#l1DirtyFrom = 0
    this.#l1DirtyTo = 0
  }

  /** Number of the guest cluster that holds the byte at `offset`. */
  clusterOf(offset: number): number {
    return Math.floor(offset * this.#perByte)
  }

  /** L1 index of the table that maps guest cluster `cluster`. */
  tableOf(cluster: number): number {
    return Math.floor(cluster * this.#perCluster)
  }

  /**
   * Host byte of guest byte `offset` when `length` bytes from there lie in one normal cluster whose table is at hand, and for "write" the cluster
   * may be written in place. Otherwise -1: then ask in another way.
   */
  hostOf(offset: number, length: number, access: "read" | "write"): number {
    const geometry = this.#geometry
    const cluster = Math.floor(offset * this.#perByte)
    const l1Index = Math.floor(cluster * this.#perCluster)
    const slot = this.#slots[l1Index & (SLOTS - 1)]
    const within = offset - cluster * geometry.clusterSize
    if (slot === undefined || slot.l1Index !== l1Index || within + length > geometry.clusterSize) return -1
    const table = slot.table
    if (table === undefined || !table.resident) return -1
    table.used = true
    const at = (cluster - l1Index * geometry.l2Entries) * TABLE_ENTRY_SIZE
    const hi = table.view.getUint32(at)
    if (access === "write" && !(slot.isOwn && isCopied(hi))) return -1
    const host = plainHostOffset(hi, table.view.getUint32(at + 4), geometry)
    return host < 0 ? -1 : host + within
  }

  /**
   * Fills `extent` for the guest bytes from `offset`, at most `length` of them and not beyond the L2 table's coverage; clusters that
   * lie one after the other in the host file become one extent. Throws `corrupt` for entries that cannot be right.
   */
  find(offset: number, length: number, extent: Extent): void {
    const cluster = this.clusterOf(offset)
    const l1Index = this.tableOf(cluster)
    const table = this.table(l1Index)
    const { clusterSize, l2Entries } = this.#geometry
    const within = offset - cluster * clusterSize
    let index = cluster - l1Index * l2Entries
    if (table === undefined) {
      extent.kind = L2_KIND.UNALLOCATED
      extent.length = Math.min(length, (l2Entries - index) * clusterSize - within)
      return
    }
    const hi = table.view.getUint32(index * TABLE_ENTRY_SIZE)
    const lo = table.view.getUint32(index * TABLE_ENTRY_SIZE + 4)
    const kind = l2Kind(hi, lo, this.#geometry)
    extent.kind = kind
    extent.host = hostOffset(hi, lo) + within
    let found = clusterSize - within
    if (kind >= L2_KIND.COMPRESSED) {
      if (kind === L2_KIND.CORRUPT) throw this.corruptEntry(table, index)
      extent.hi = hi
      extent.lo = lo
      extent.within = within
    } else {
      while (found < length && ++index < l2Entries && this.#continues(table, index, kind, extent.host + found)) found += clusterSize
    }
    extent.length = found < length ? found : length
  }

  /** Whether entry `index` has this kind and, where the kind has a host offset, this one. */
  #continues(table: CachedTable, index: number, kind: L2Kind, host: number): boolean {
    const hi = table.view.getUint32(index * TABLE_ENTRY_SIZE)
    const lo = table.view.getUint32(index * TABLE_ENTRY_SIZE + 4)
    if (l2Kind(hi, lo, this.#geometry) !== kind) return false
    return kind === L2_KIND.UNALLOCATED || kind === L2_KIND.ZERO || hostOffset(hi, lo) === host
  }

  /** The L2 table for `l1Index`, or undefined where nothing is allocated. Throws `corrupt`. */
  table(l1Index: number): CachedTable | undefined {
    const slot = this.#slots[l1Index & (SLOTS - 1)]
    if (slot !== undefined && slot.l1Index === l1Index && slot.table?.resident === true) {
      slot.table.used = true
      return slot.table
    }
    return this.#select(l1Index)
  }

  /** The L2 table for `l1Index` if there is one that no snapshot shares. */
  ownTable(l1Index: number): CachedTable | undefined {
    const table = this.table(l1Index)
    return table !== undefined && this.#slots[l1Index & (SLOTS - 1)]?.isOwn === true ? table : undefined
  }

  /** The L2 table for `l1Index`, to be changed: a new one where there is none, a copy where a snapshot shares it (QC-L1-04). */
  tableForWrite(l1Index: number): CachedTable {
    const current = this.table(l1Index)
    if (current !== undefined && this.ownTable(l1Index) !== undefined) {
      if (current.dirtyFrom === current.dirtyTo) this.#checkTarget(current)
      return current
    }
    const { allocator, refcounts, metadata } = this.#needWriter()
    const { clusterSize } = this.#geometry
    this.#checkL1(metadata)
    // Read before allocating: an error then leaves nothing to undo.
    const shared = current !== undefined && refcounts.get(current.offset / clusterSize) > 1
    const { first } = allocator.allocate(1)
    const table = this.#cache.create(first * clusterSize, current === undefined ? new Uint8Array(clusterSize) : current.bytes.slice())
    if (shared) this.#clearCopied(table)
    const entry = encodeEntry({ offset: table.offset, copied: true })
    this.#l1View.setUint32(l1Index * TABLE_ENTRY_SIZE, entry.hi)
    this.#l1View.setUint32(l1Index * TABLE_ENTRY_SIZE + 4, entry.lo)
    this.#touchL1(l1Index)
    metadata.addL2Table(table.offset)
    if (current !== undefined) allocator.releaseLater(current.offset / clusterSize, 1)
    this.#slots[l1Index & (SLOTS - 1)]?.fill(l1Index, table, true)
    return table
  }

  /** Stores an L2 entry. `table` comes from `tableForWrite`, with no other table looked up since. */
  setEntry(table: CachedTable, index: number, hi: number, lo: number): void {
    table.view.setUint32(index * TABLE_ENTRY_SIZE, hi)
    table.view.setUint32(index * TABLE_ENTRY_SIZE + 4, lo)
    this.#cache.touch(table, index * TABLE_ENTRY_SIZE, (index + 1) * TABLE_ENTRY_SIZE)
  }

  /** The error for entry `index` of `table`, which cannot be right. */
  corruptEntry(table: CachedTable, index: number): BackingError {
    const at = index * TABLE_ENTRY_SIZE
    const entry = decodeL2Entry(table.view.getUint32(at), table.view.getUint32(at + 4), this.#geometry)
    const reason = entry.kind === "corrupt" ? `${entry.reason} (${entry.offset})` : "it makes no sense"
    return this.#corrupt(`entry ${index} of the L2 table at byte ${table.offset}: ${reason}`, table.offset + at)
  }

  contains(cluster: number): boolean {
    const offset = cluster * this.#geometry.clusterSize
    for (let at = 0; at < this.#l1.length; at += TABLE_ENTRY_SIZE)
      if (hostOffset(this.#l1View.getUint32(at), this.#l1View.getUint32(at + 4)) === offset) return true
    return false
  }

  forEach(visit: (cluster: number) => void): void {
    for (let at = 0; at < this.#l1.length; at += TABLE_ENTRY_SIZE) {
      const entry = decodeL1Entry(this.#l1View.getUint32(at), this.#l1View.getUint32(at + 4), this.#geometry)
      if (entry.kind === "table") visit(entry.offset / this.#geometry.clusterSize)
    }
  }

  #select(l1Index: number): CachedTable | undefined {
    const at = l1Index * TABLE_ENTRY_SIZE
    // Beyond the L1 table nothing is allocated (QC-L1-05).
    const isInside = at < this.#l1.length
    const hi = isInside ? this.#l1View.getUint32(at) : 0
    const lo = isInside ? this.#l1View.getUint32(at + 4) : 0
    const offset = l1TableOffset(hi, lo, this.#geometry)
    if (offset < 0) throw this.#corruptL1Entry(l1Index)
    if (offset === 0) return undefined
    const table = this.#cache.load(offset)
    this.#slots[l1Index & (SLOTS - 1)]?.fill(l1Index, table, isCopied(hi))
    return table
  }

  #corruptL1Entry(l1Index: number): BackingError {
    const at = l1Index * TABLE_ENTRY_SIZE
    const entry = decodeL1Entry(this.#l1View.getUint32(at), this.#l1View.getUint32(at + 4), this.#geometry)
    const reason = entry.kind === "corrupt" ? `${entry.reason} (${entry.offset})` : "it makes no sense"
    return this.#corrupt(`L1 entry ${l1Index}: ${reason}`, this.#l1Offset + at)
  }

  /** A table that is about to change must be an L2 table and nothing else. */
  #checkTarget(table: CachedTable): void {
    const other = this.#needWriter().metadata.findForL2Table(table.offset)
    if (other !== undefined) throw this.#corrupt(`the L2 table at byte ${table.offset} is ${other} as well`, table.offset)
  }

  /** Before the first change of the L1 table: nothing else may lie in it. */
  #checkL1(metadata: MetadataMap): void {
    if (this.#l1Checked) return
    const other = metadata.findWithin({ offset: this.#l1Offset, length: this.#l1.length })
    if (other !== undefined) throw this.#corrupt(`the L1 table at byte ${this.#l1Offset} holds ${other}`, this.#l1Offset)
    this.#l1Checked = true
  }

  /** What a shared table refers to is shared too, whatever its COPIED flags claim: believing one would write into a snapshot. */
  #clearCopied(table: CachedTable): void {
    for (let at = 0; at < table.bytes.length; at += TABLE_ENTRY_SIZE) {
      const hi = table.view.getUint32(at)
      if (isCopied(hi)) table.view.setUint32(at, hi & ~L2_ENTRY.COPIED_HI)
    }
  }

  #touchL1(l1Index: number): void {
    const clean = this.#l1DirtyFrom === this.#l1DirtyTo
    const from = l1Index * TABLE_ENTRY_SIZE
    this.#l1DirtyFrom = clean ? from : Math.min(this.#l1DirtyFrom, from)
    this.#l1DirtyTo = clean ? from + TABLE_ENTRY_SIZE : Math.max(this.#l1DirtyTo, from + TABLE_ENTRY_SIZE)
  }

  #needWriter(): MappingWriter {
    if (this.#writer === undefined) throw new Error("the mapping of a read-only image was about to change")
    return this.#writer
  }
}
