/** Discard and write-zeroes: mostly a matter of L2 entries (QC-DZ-01 to QC-DZ-07). */
import { L2_KIND } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { Mapping } from "./metadata/mapping.ts"
import type { MetadataWriter } from "./metadata/metadata-writer.ts"
import type { CachedTable } from "./metadata/table-cache.ts"
import type { Reader } from "./reader.ts"
import type { Writer } from "./writer.ts"

export interface ZeroingOptions {
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly writer: Writer
  readonly metadataWriter: MetadataWriter
  readonly reader: Reader
}

/** What becomes of allocated clusters. "drop": they are freed. "keep": they stay, marked as reading zeroes. */
type Allocated = "drop" | "keep"

export class Zeroing {
  readonly #geometry: Geometry
  readonly #mapping: Mapping
  readonly #writer: Writer
  readonly #metadataWriter: MetadataWriter
  readonly #reader: Reader

  constructor(options: ZeroingOptions) {
    this.#geometry = options.geometry
    this.#mapping = options.mapping
    this.#writer = options.writer
    this.#metadataWriter = options.metadataWriter
    this.#reader = options.reader
  }

  /** Frees the whole clusters in the range, the last one of the disk included; other parts stay. Discarded clusters read as zeroes. */
  discard(offset: number, length: number): void {
    // Without a zero flag, freeing would let the backing image's old content show through (QC-DZ-03).
    if (this.#geometry.version < 3 && this.#reader.backingEnd > 0) return
    const { first, end } = this.#wholeClusters(offset, length)
    this.#zeroClusters(first, end, "drop")
  }

  /** Makes the range read as zeroes. `mayUnmap`: whole clusters may be freed. */
  writeZeroes(offset: number, length: number, mayUnmap: boolean): void {
    const { clusterSize, version } = this.#geometry
    const { first, end } = this.#wholeClusters(offset, length)
    if (first >= end || (version < 3 && this.#reader.backingEnd > 0)) {
      this.#storeZeroes(offset, length)
      return
    }
    this.#storeZeroes(offset, first * clusterSize - offset)
    this.#storeZeroes(end * clusterSize, offset + length - end * clusterSize)
    this.#zeroClusters(first, end, mayUnmap || version < 3 ? "drop" : "keep")
  }

  /** The clusters that lie in the range as a whole, as far as the disk goes. */
  #wholeClusters(offset: number, length: number): { readonly first: number; readonly end: number } {
    const { clusterSize, size } = this.#geometry
    const last = offset + length
    return { first: Math.ceil(offset / clusterSize), end: last === size ? Math.ceil(last / clusterSize) : Math.floor(last / clusterSize) }
  }

  #storeZeroes(offset: number, length: number): void {
    if (length > 0) this.#writer.writeZeroes(offset, length)
  }

  #zeroClusters(first: number, end: number, allocated: Allocated): void {
    const { l2Entries } = this.#geometry
    for (let cluster = first; cluster < end;) {
      const l1Index = this.#mapping.tableOf(cluster)
      const from = cluster - l1Index * l2Entries
      const to = Math.min(l2Entries, end - l1Index * l2Entries)
      this.#metadataWriter.makeRoom()
      this.#zeroEntries(l1Index, { from, to }, allocated)
      cluster = l1Index * l2Entries + to
    }
  }

  #zeroEntries(l1Index: number, range: { readonly from: number; readonly to: number }, allocated: Allocated): void {
    const { clusterSize, l2Coverage } = this.#geometry
    const existing = this.#mapping.table(l1Index)
    // Entries from here on have nothing behind them: where they are unallocated, they read as zeroes already.
    const backed = Math.ceil((this.#reader.backingEnd - l1Index * l2Coverage) / clusterSize)
    let index = range.from
    if (existing === undefined) {
      if (index >= backed) return
    } else {
      // A table is only made this disk's own, or dirty, for an entry that changes.
      while (index < range.to && !this.#changes(existing, index, index < backed, allocated)) index++
      if (index === range.to) return
    }
    const table = this.#mapping.tableForWrite(l1Index)
    for (; index < range.to; index++) if (this.#changes(table, index, index < backed, allocated)) this.#zeroEntry(table, index, allocated)
  }

  #changes(table: CachedTable, index: number, isBacked: boolean, allocated: Allocated): boolean {
    const kind = this.#mapping.l2.kind(table, index)
    switch (kind) {
      case L2_KIND.UNALLOCATED:
        return isBacked
      case L2_KIND.ZERO:
        return false
      case L2_KIND.ZERO_ALLOCATED:
        return allocated === "drop"
      case L2_KIND.NORMAL:
      case L2_KIND.COMPRESSED:
        return true
      case L2_KIND.CORRUPT:
        throw this.#mapping.corruptEntry(table, index)
    }
  }

  #zeroEntry(table: CachedTable, index: number, allocated: Allocated): void {
    const { l2 } = this.#mapping
    if (allocated === "keep" && l2.kind(table, index) === L2_KIND.NORMAL) l2.setZeroFlag(table, index)
    else this.#mapping.clear(table, index)
  }
}

/** Bytes of zeroes that are written where the format has no zero flag. */
const WRITTEN_AT_ONCE = 1024 * 1024
/** L2 entries that are changed within some 2 ms. */
const ENTRIES_AT_ONCE = 4096

/** Bytes that one `writeZeroes` does within a few milliseconds. */
export function zeroesAtOnce({ version, clusterSize }: Geometry, backing: object | undefined): number {
  // Version 2 has no zero flag: over a backing image zeroes are data (QC-DZ-05).
  return version < 3 && backing !== undefined ? WRITTEN_AT_ONCE : ENTRIES_AT_ONCE * clusterSize
}
