/** Discard and write-zeroes: mostly a matter of L2 entries (QC-DZ-01 to QC-DZ-07). */
import type { KeptPlaces } from "./kept-places.ts"
import { L2_KIND } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { SubclusterRange } from "./metadata/l2-view.ts"
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
  /** Notes discarded clusters that stay allocated. Undefined if a discard frees them. */
  readonly keptPlaces: KeptPlaces | undefined
}

/**
 * What becomes of allocated clusters. "drop": freed. "keep": still allocated, marked as zeroes. "empty": the same, and a hole in the file.
 */
type Allocated = "drop" | "keep" | "empty"

/** The subclusters from `from` up to but not including `to`, of a table or of one of its entries, that shall read as zeroes. */
interface Zeroed extends SubclusterRange {
  /** Subclusters from this one on have no backing data: unallocated ones already read as zeroes. */
  readonly backed: number
  readonly allocated: Allocated
}

/** Of entry `index`. */
interface Part extends Zeroed {
  readonly index: number
}

/** Bytes of zeroes that one call writes in an image without zero flags. */
const WRITTEN_AT_ONCE = 1024 * 1024
/** L2 entries that one call changes, in about 2 ms. */
const ENTRIES_AT_ONCE = 4096

export class Zeroing {
  readonly #geometry: Geometry
  readonly #mapping: Mapping
  readonly #writer: Writer
  readonly #metadataWriter: MetadataWriter
  readonly #reader: Reader
  readonly #keptPlaces: KeptPlaces | undefined

  constructor(options: ZeroingOptions) {
    this.#geometry = options.geometry
    this.#mapping = options.mapping
    this.#writer = options.writer
    this.#metadataWriter = options.metadataWriter
    this.#reader = options.reader
    this.#keptPlaces = options.keptPlaces
  }

  /** Bytes that one call handles within a few milliseconds. */
  get zeroesAtOnce(): number {
    const { version, clusterSize } = this.#geometry
    // Version 2 has no zero flag: over a backing image, zeroes have to be written (QC-DZ-05).
    return version < 3 && this.#reader.backingEnd > 0 ? WRITTEN_AT_ONCE : ENTRIES_AT_ONCE * clusterSize
  }

  get unmapsAtOnce(): number {
    return this.zeroesAtOnce
  }

  /** Discards the whole clusters in the range, including the disk's last one, and leaves the rest. Discarded clusters read as zeroes. */
  discard(offset: number, length: number): void {
    // Without a zero flag, freeing would let the backing image's old content show through (QC-DZ-03).
    if (this.#geometry.version < 3 && this.#reader.hiddenEnd > 0) return
    const { clusterSize, subclusters } = this.#geometry
    const { first, end } = this.#wholeUnits(offset, length, clusterSize)
    this.#zeroSubclusters(first * subclusters, end * subclusters, this.#unmapped)
  }

  /** Makes the range read as zeroes. `mayUnmap`: whole clusters may be freed. */
  writeZeroes(offset: number, length: number, mayUnmap: boolean): void {
    const { subclusterSize, version } = this.#geometry
    const { first, end } = this.#wholeUnits(offset, length, subclusterSize)
    if (first >= end || (version < 3 && this.#reader.hiddenEnd > 0)) {
      this.#storeZeroes(offset, length)
      return
    }
    this.#storeZeroes(offset, first * subclusterSize - offset)
    this.#storeZeroes(end * subclusterSize, offset + length - end * subclusterSize)
    this.#zeroSubclusters(first, end, mayUnmap || version < 3 ? this.#unmapped : "keep")
  }

  get #unmapped(): Allocated {
    return this.#keptPlaces === undefined ? "drop" : "empty"
  }

  /** The clusters or subclusters, of `unit` bytes, that are wholly in the range. The end of the disk completes its last cluster. */
  #wholeUnits(offset: number, length: number, unit: number): { readonly first: number; readonly end: number } {
    const { clusterSize, size } = this.#geometry
    const last = offset + length
    const end = last === size ? Math.ceil(last / clusterSize) * (clusterSize / unit) : Math.floor(last / unit)
    return { first: Math.ceil(offset / unit), end }
  }

  #storeZeroes(offset: number, length: number): void {
    if (length > 0) this.#writer.writeZeroes(offset, length)
  }

  /** Makes subclusters of the disk, from `first` up to but not including `end`, read as zeroes. */
  #zeroSubclusters(first: number, end: number, allocated: Allocated): void {
    const { subclusters } = this.#geometry
    const firstWhole = Math.ceil(first / subclusters) * subclusters
    const endWhole = Math.floor(end / subclusters) * subclusters
    if (firstWhole > endWhole) return this.#zeroPart(first, end, allocated)
    if (first < firstWhole) this.#zeroPart(first, firstWhole, allocated)
    this.#zeroTables(firstWhole, endWhole, allocated)
    if (endWhole < end) this.#zeroPart(endWhole, end, allocated)
  }

  /** Zeroes some subclusters of one cluster. A compressed cluster cannot have zero subclusters, so zeroes are written (QC-EL2-09). */
  #zeroPart(first: number, end: number, allocated: Allocated): void {
    const { subclusterSize } = this.#geometry
    if (this.#isCompressed(first * subclusterSize)) this.#writer.writeZeroes(first * subclusterSize, (end - first) * subclusterSize)
    else this.#zeroTables(first, end, allocated)
  }

  #isCompressed(offset: number): boolean {
    const cluster = this.#mapping.clusterOf(offset)
    const table = this.#mapping.table(this.#mapping.tableOf(cluster))
    return table !== undefined && this.#mapping.l2.kind(table, this.#mapping.indexOf(cluster), 0) === L2_KIND.COMPRESSED
  }

  #zeroTables(first: number, end: number, allocated: Allocated): void {
    const perTable = this.#geometry.l2Entries * this.#geometry.subclusters
    const backed = Math.ceil(this.#reader.hiddenEnd / this.#geometry.subclusterSize)
    for (let subcluster = first; subcluster < end;) {
      const l1Index = Math.floor(subcluster / perTable)
      const start = l1Index * perTable
      // Passed together, because a disk of 1 PiB has 2 million of them.
      const empty = subcluster < backed ? 0 : this.#mapping.l1.emptyEntries(l1Index, Math.ceil((end - start) / perTable))
      if (empty === 0) {
        this.#metadataWriter.makeRoom()
        this.#zeroEntries(l1Index, { from: subcluster - start, to: Math.min(perTable, end - start), backed: backed - start, allocated })
      }
      subcluster = start + Math.max(1, empty) * perTable
    }
  }

  /** `range`: subclusters of the table. */
  #zeroEntries(l1Index: number, { allocated, backed, ...range }: Zeroed): void {
    const { subclusters } = this.#geometry
    const existing = this.#mapping.table(l1Index)
    const partOf = (index: number): Part => {
      const start = index * subclusters
      const from = Math.max(0, range.from - start)
      return { index, from, to: Math.min(subclusters, range.to - start), backed: backed - start, allocated }
    }
    let index = Math.floor(range.from / subclusters)
    const end = Math.ceil(range.to / subclusters)
    if (existing === undefined) {
      if (range.from >= backed) return
    } else {
      if (range.from >= backed) index += this.#mapping.l2.emptyEntries(existing, index, end - index)
      // Skips unchanged entries, so that a table is copied or made dirty only for an entry that changes.
      while (index < end && !this.#changes(existing, partOf(index))) index++
      if (index === end) return
    }
    const table = this.#mapping.tableForWrite(l1Index)
    for (; index < end; index++) if (this.#changes(table, partOf(index))) this.#zeroEntry(table, partOf(index))
  }

  #changes(table: CachedTable, part: Part): boolean {
    const { l2 } = this.#mapping
    const { index, from, to, backed } = part
    const drops = part.allocated === "drop" && to - from === this.#geometry.subclusters
    for (let subcluster = from; subcluster < to;) {
      const kind = l2.kind(table, index, subcluster)
      switch (kind) {
        case L2_KIND.UNALLOCATED:
          if (subcluster < backed || (drops && l2.host(table, index) !== 0)) return true
          break
        case L2_KIND.ZERO:
          break
        case L2_KIND.ZERO_ALLOCATED:
          if (drops) return true
          break
        case L2_KIND.NORMAL:
        case L2_KIND.COMPRESSED:
          return true
        case L2_KIND.CORRUPT:
          throw this.#mapping.corruptEntry(table, index)
      }
      subcluster += l2.run(table, index, subcluster, kind)
    }
    return false
  }

  #zeroEntry(table: CachedTable, { index, from, to, allocated }: Part): void {
    const { l2 } = this.#mapping
    const { subclusters } = this.#geometry
    const isWhole = to - from === subclusters
    const isCompressed = l2.kind(table, index, 0) === L2_KIND.COMPRESSED
    if (isWhole && (allocated === "drop" || isCompressed || l2.host(table, index) === 0)) return this.#mapping.clear(table, index)
    l2.setZeroFlag(table, index, from, to)
    if (allocated === "empty" && isWhole) this.#keptPlaces?.add(table.l1Index * this.#geometry.l2Entries + index)
    // The whole cluster is zeroes now, so it can be freed.
    if (allocated === "drop" && this.#isZero(table, index)) this.#mapping.clear(table, index)
  }

  #isZero(table: CachedTable, index: number): boolean {
    const { l2 } = this.#mapping
    const kind = l2.kind(table, index, 0)
    return kind === L2_KIND.ZERO_ALLOCATED && l2.run(table, index, 0, kind) === this.#geometry.subclusters
  }
}
