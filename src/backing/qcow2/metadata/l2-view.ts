/** L2View: reads and changes entries of L2 tables. The only place that knows how large an entry is and where its halves lie. */
import {
  compressedLength, compressedOffset, decodeL2Entry, encodeCompressedEntry, encodeEntry, hostOffset, isCopied, L2_KIND, type L2Entry,
  type L2Kind, l2Kind,
  plainHostOffset,
} from "../format/entries.ts"
import type { Geometry } from "../format/geometry.ts"
import { L2_ENTRY, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { CachedTable, TableCache } from "./table-cache.ts"

/** Host clusters in a row. */
export interface ClusterRun {
  readonly first: number
  readonly count: number
}

/**
 * Host byte of a cluster that is NORMAL beyond doubt, or -1: then `L2View.kind` says more. A function of its own, for reads: each object on
 * their way costs.
 */
export function plainHost(table: DataView, index: number, clusterSize: number): number {
  const at = index * TABLE_ENTRY_SIZE
  return plainHostOffset(table.getUint32(at), table.getUint32(at + 4), clusterSize)
}

export class L2View {
  readonly #geometry: Geometry
  readonly #cache: TableCache

  constructor(geometry: Geometry, cache: TableCache) {
    this.#geometry = geometry
    this.#cache = cache
  }

  /** Byte of the file where the entry lies. */
  offsetOf(table: CachedTable, index: number): number {
    return table.offset + index * TABLE_ENTRY_SIZE
  }

  kind(table: CachedTable, index: number): L2Kind {
    const at = index * TABLE_ENTRY_SIZE
    return l2Kind(table.view.getUint32(at), table.view.getUint32(at + 4), this.#geometry)
  }

  /** Whether COPIED is set: the entry's cluster is referred to once. */
  isCopied(table: CachedTable, index: number): boolean {
    return isCopied(table.view.getUint32(index * TABLE_ENTRY_SIZE))
  }

  /** Host byte of the entry's cluster: kinds NORMAL and ZERO_ALLOCATED; 0 for UNALLOCATED and ZERO. */
  host(table: CachedTable, index: number): number {
    const at = index * TABLE_ENTRY_SIZE
    return hostOffset(table.view.getUint32(at), table.view.getUint32(at + 4))
  }

  /** Host byte where a compressed cluster begins. */
  compressedOffset(table: CachedTable, index: number): number {
    const at = index * TABLE_ENTRY_SIZE
    return compressedOffset(table.view.getUint32(at), table.view.getUint32(at + 4), this.#geometry)
  }

  /** Most bytes that a compressed cluster takes from its offset. */
  compressedLength(table: CachedTable, index: number): number {
    const at = index * TABLE_ENTRY_SIZE
    return compressedLength(table.view.getUint32(at), table.view.getUint32(at + 4), this.#geometry)
  }

  /** Whether the entry has this kind and, where the kind has a host offset, this one. */
  continues(table: CachedTable, index: number, kind: L2Kind, host: number): boolean {
    const at = index * TABLE_ENTRY_SIZE
    const hi = table.view.getUint32(at)
    const lo = table.view.getUint32(at + 4)
    if (l2Kind(hi, lo, this.#geometry) !== kind) return false
    return kind === L2_KIND.UNALLOCATED || kind === L2_KIND.ZERO || hostOffset(hi, lo) === host
  }

  /** The entry as a value, for messages. */
  decode(table: CachedTable, index: number): L2Entry {
    const at = index * TABLE_ENTRY_SIZE
    return decodeL2Entry(table.view.getUint32(at), table.view.getUint32(at + 4), this.#geometry)
  }

  /**
   * The host clusters that the entry refers to, or undefined. A compressed cluster counts in each one that its sectors touch (QC-CMP-09,
   * QC-CMP-10).
   */
  references(table: CachedTable, index: number): ClusterRun | undefined {
    const { clusterSize } = this.#geometry
    const kind = this.kind(table, index)
    if (kind === L2_KIND.NORMAL || kind === L2_KIND.ZERO_ALLOCATED) return { first: this.host(table, index) / clusterSize, count: 1 }
    if (kind !== L2_KIND.COMPRESSED) return undefined
    const start = this.compressedOffset(table, index)
    const first = Math.floor(start / clusterSize)
    const last = Math.floor((start + this.compressedLength(table, index) - 1) / clusterSize)
    return { first, count: last - first + 1 }
  }

  /** Makes the entry a normal cluster of this disk alone at host byte `host`. */
  setNormal(table: CachedTable, index: number, host: number): void {
    const { hi, lo } = encodeEntry({ offset: host, copied: true })
    this.#set(table, index, hi, lo)
  }

  /** Makes the entry a compressed cluster whose `length` bytes begin at host byte `host`. */
  setCompressed(table: CachedTable, index: number, host: number, length: number): void {
    const { hi, lo } = encodeCompressedEntry({ offset: host, length }, this.#geometry)
    this.#set(table, index, hi, lo)
  }

  /** Makes the entry read as zeroes; its cluster stays with it, and so does COPIED, or its absence (QC-DZ-07). */
  setZeroFlag(table: CachedTable, index: number): void {
    const at = index * TABLE_ENTRY_SIZE
    this.#set(table, index, table.view.getUint32(at), (table.view.getUint32(at + 4) | L2_ENTRY.ZERO_LO) >>> 0)
  }

  /** Makes the entry refer to nothing and read as zeroes; in version 2, as what the backing image holds. */
  setZero(table: CachedTable, index: number): void {
    this.#set(table, index, 0, this.#geometry.version < 3 ? 0 : L2_ENTRY.ZERO_LO)
  }

  /** Clears COPIED in a copy of a table that a snapshot shares: what the table refers to is shared too, whatever its flags claim. */
  clearCopied(table: CachedTable): void {
    for (let at = 0; at < table.bytes.length; at += TABLE_ENTRY_SIZE) {
      const hi = table.view.getUint32(at)
      if (isCopied(hi)) table.view.setUint32(at, hi & ~L2_ENTRY.COPIED_HI)
    }
  }

  #set(table: CachedTable, index: number, hi: number, lo: number): void {
    const at = index * TABLE_ENTRY_SIZE
    table.view.setUint32(at, hi)
    table.view.setUint32(at + 4, lo)
    this.#cache.touch(table, at, at + TABLE_ENTRY_SIZE)
  }
}
