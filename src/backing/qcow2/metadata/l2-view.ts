/**
 * L2View: reads and changes entries of L2 tables. Only it and `ExtendedL2View` know the size and layout of an entry. Subclusters are
 * numbered within their cluster; a standard entry has one, 0, which is the whole cluster.
 */
import {
  compressedLength, compressedOffset, decodeL2Entry, encodeCompressedEntry, encodeEntry, hostOffset, isCopied, L2_KIND, type L2Kind, l2Kind,
  plainHostOffset,
} from "../format/entries.ts"
import type { Geometry } from "../format/geometry.ts"
import { L2_ENTRY, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { nextNonZero } from "../format/words.ts"
import type { CachedTable, TableCache } from "./table-cache.ts"

/** Contiguous host clusters. */
export interface ClusterRun {
  readonly first: number
  readonly count: number
}

/** Subclusters of one cluster: from `from` up to but not including `to`. */
export interface SubclusterRange {
  readonly from: number
  readonly to: number
}

/**
 * Host byte of a cluster that is certainly NORMAL, or -1: then ask `L2View.kind`. In an extended table its subclusters may be of any kind.
 * A function and not a method, because reads are faster without another object.
 */
export function plainHost(table: DataView, index: number, entrySize: number, clusterSize: number): number {
  const at = index * entrySize
  return plainHostOffset(table.getUint32(at), table.getUint32(at + 4), clusterSize)
}

export class L2View {
  protected readonly geometry: Geometry
  protected readonly cache: TableCache
  readonly #entrySize: number = 0

  constructor(geometry: Geometry, cache: TableCache) {
    this.geometry = geometry
    this.cache = cache
    this.#entrySize = geometry.l2EntrySize
  }

  /** Byte of the file where the entry begins. */
  offsetOf(table: CachedTable, index: number): number {
    return table.offset + index * this.#entrySize
  }

  /** The kind of a subcluster. */
  kind(table: CachedTable, index: number, _subcluster: number): L2Kind {
    const at = index * TABLE_ENTRY_SIZE
    const kind = l2Kind(table.view.getUint32(at), table.view.getUint32(at + 4), this.geometry)
    return this.geometry.hasDataFile ? this.placed(kind, table, index) : kind
  }

  /** `kind`, or CORRUPT if the entry does not name the cluster's fixed place in the external data file (QC-DF-01). */
  protected placed(kind: L2Kind, table: CachedTable, index: number): L2Kind {
    if (kind !== L2_KIND.NORMAL && kind !== L2_KIND.ZERO_ALLOCATED) return kind
    return this.host(table, index) === this.guestOffset(table, index) ? kind : L2_KIND.CORRUPT
  }

  /** Byte of the disk where the entry's cluster begins. The table's `l1Index` must be set. */
  guestOffset(table: CachedTable, index: number): number {
    return (table.l1Index * this.geometry.l2Entries + index) * this.geometry.clusterSize
  }

  /** How many subclusters from `subcluster` on have this kind, which is the kind of the first. */
  run(_table: CachedTable, _index: number, _subcluster: number, _kind: L2Kind): number {
    return 1
  }

  /** The first subcluster that has to be copied to a new cluster for this entry. */
  firstToCopy(_table: CachedTable, _index: number): number {
    return 0
  }

  /** The end of the subclusters that have to be copied, exclusive. */
  endToCopy(_table: CachedTable, _index: number): number {
    return 1
  }

  /** Whether COPIED is set: the entry has the only reference to its cluster. */
  isCopied(table: CachedTable, index: number): boolean {
    return isCopied(table.view.getUint32(index * this.#entrySize))
  }

  /** Host byte of the entry's cluster, or 0. Not for kinds COMPRESSED and CORRUPT. */
  host(table: CachedTable, index: number): number {
    const at = index * this.#entrySize
    return hostOffset(table.view.getUint32(at), table.view.getUint32(at + 4))
  }

  /**
   * Whether the entry has a cluster. Host byte 0 is valid only in an external data file (QC-L2-07). Not for kinds COMPRESSED and CORRUPT.
   */
  hasPlace(table: CachedTable, index: number): boolean {
    const at = index * this.#entrySize
    const hi = table.view.getUint32(at)
    const lo = table.view.getUint32(at + 4)
    return hostOffset(hi, lo) !== 0 || (this.geometry.hasDataFile && l2Kind(hi, lo, this.geometry) === L2_KIND.NORMAL)
  }

  /** Whether data may be written to the entry's cluster in place: it has one, and nothing else refers to it. Not for kind CORRUPT. */
  hasOwnPlace(table: CachedTable, index: number): boolean {
    const hi = table.view.getUint32(index * this.#entrySize)
    return isCopied(hi) && (hi & L2_ENTRY.COMPRESSED_HI) === 0 && this.hasPlace(table, index)
  }

  /** Host byte where a compressed cluster begins. */
  compressedOffset(table: CachedTable, index: number): number {
    const at = index * this.#entrySize
    return compressedOffset(table.view.getUint32(at), table.view.getUint32(at + 4), this.geometry)
  }

  /** Maximum bytes of a compressed cluster from its offset. */
  compressedLength(table: CachedTable, index: number): number {
    const at = index * this.#entrySize
    return compressedLength(table.view.getUint32(at), table.view.getUint32(at + 4), this.geometry)
  }

  /** Whether the entry's first subcluster has this kind and, if the kind has a host offset, this host offset. */
  continues(table: CachedTable, index: number, kind: L2Kind, host: number): boolean {
    const at = index * TABLE_ENTRY_SIZE
    const hi = table.view.getUint32(at)
    const lo = table.view.getUint32(at + 4)
    if (l2Kind(hi, lo, this.geometry) !== kind) return false
    return kind === L2_KIND.UNALLOCATED || kind === L2_KIND.ZERO || hostOffset(hi, lo) === host
  }

  /** How many entries from `index` on are empty, up to `most`. Takes a third of the time of asking each, in a map of 100 GiB (measured). */
  emptyEntries(table: CachedTable, index: number, most: number): number {
    const { bytes } = table
    if (bytes.byteOffset % 4 !== 0) return 0
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
    const perEntry = this.#entrySize / 4
    const start = index * perEntry
    const end = Math.min(words.length, start + most * perEntry)
    return Math.floor((nextNonZero(words, start, end) - start) / perEntry)
  }

  /** Why the entry is CORRUPT. */
  problem(table: CachedTable, index: number): string {
    const at = index * this.#entrySize
    const entry = decodeL2Entry(table.view.getUint32(at), table.view.getUint32(at + 4), this.geometry)
    if (entry.kind === "corrupt") return `${entry.reason} (${entry.offset})`
    if (!this.geometry.hasDataFile) return "it is invalid"
    return `it names byte ${this.host(table, index)} of the external data file for byte ${this.guestOffset(table, index)} of the disk`
  }

  /**
   * The host clusters that the entry refers to, or undefined. A compressed cluster refers to each one that its sectors touch (QC-CMP-09,
   * QC-CMP-10).
   */
  references(table: CachedTable, index: number): ClusterRun | undefined {
    const { clusterSize } = this.geometry
    const at = index * this.#entrySize
    // Most entries of a new disk are empty.
    if (table.view.getUint32(at) === 0 && table.view.getUint32(at + 4) === 0) return undefined
    const kind = this.kind(table, index, 0)
    if (kind === L2_KIND.CORRUPT) return undefined
    if (kind !== L2_KIND.COMPRESSED) {
      return this.hasPlace(table, index) ? { first: this.host(table, index) / clusterSize, count: 1 } : undefined
    }
    const start = this.compressedOffset(table, index)
    const first = Math.floor(start / clusterSize)
    const last = Math.floor((start + this.compressedLength(table, index) - 1) / clusterSize)
    return { first, count: last - first + 1 }
  }

  /**
   * Gives the entry the cluster at host byte `host`, which nothing else refers to. The subclusters from `from` up to but not including `to`
   * become allocated; the others keep their kinds.
   */
  setNormal(table: CachedTable, index: number, host: number, _from: number, _to: number): void {
    const { hi, lo } = encodeEntry({ offset: host, copied: true })
    this.set(table, index * TABLE_ENTRY_SIZE, hi, lo)
  }

  /** Makes the entry a compressed cluster whose `length` bytes begin at host byte `host`. */
  setCompressed(table: CachedTable, index: number, host: number, length: number): void {
    const { hi, lo } = encodeCompressedEntry({ offset: host, length }, this.geometry)
    this.set(table, index * this.#entrySize, hi, lo)
  }

  /**
   * Makes the subclusters from `from` up to but not including `to` read as zeroes. The entry keeps its cluster and its COPIED flag
   * (QC-DZ-07).
   */
  setZeroFlag(table: CachedTable, index: number, _from: number, _to: number): void {
    const at = index * TABLE_ENTRY_SIZE
    this.set(table, at, table.view.getUint32(at), (table.view.getUint32(at + 4) | L2_ENTRY.ZERO_LO) >>> 0)
  }

  /** Makes the entry refer to nothing and read as zeroes, or in version 2 as the backing image. */
  setZero(table: CachedTable, index: number): void {
    this.set(table, index * TABLE_ENTRY_SIZE, 0, this.geometry.version < 3 ? 0 : L2_ENTRY.ZERO_LO)
  }

  /** Makes the entry refer to nothing and read as the backing image. */
  setUnallocated(table: CachedTable, index: number): void {
    this.set(table, index * this.#entrySize, 0, 0)
  }

  /** Clears COPIED in a copy of a table that a snapshot shares: its clusters are shared too, even if a flag says otherwise. */
  clearCopied(table: CachedTable): void {
    for (let at = 0; at < table.bytes.length; at += this.#entrySize) {
      const hi = table.view.getUint32(at)
      if (isCopied(hi)) table.view.setUint32(at, hi & ~L2_ENTRY.COPIED_HI)
    }
  }

  /** Stores a word at byte `at` of the table. */
  protected set(table: CachedTable, at: number, hi: number, lo: number): void {
    table.view.setUint32(at, hi)
    table.view.setUint32(at + 4, lo)
    this.cache.touch(table, at, at + TABLE_ENTRY_SIZE)
  }
}
