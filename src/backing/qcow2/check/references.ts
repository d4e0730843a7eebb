/**
 * Counts every reference to every cluster of an image (QC-REF-04): header, active and snapshot L1 tables, L2 tables, data, compressed
 * ranges, refcount table, snapshot table, bitmaps, encryption header. Also reports invalid entries. Reads each L1 range and each L2 table
 * once, even if several entries refer to it, so the size of the file bounds the work.
 */
import { countBitmapReferences } from "./check-bitmaps.ts"
import { countSnapshotReferences } from "./check-snapshots.ts"
import type { CheckedImage } from "./checked-image.ts"
import { CLUSTER_USE, ClusterCounts, ClusterSet } from "./cluster-counts.ts"
import { coveredRanges, type Range } from "./covered-ranges.ts"
import {
  compressedLength, compressedOffset, decodeL1Entry, decodeL2Entry, hostOffset, isCopied, L2_KIND, type L2Kind, l2Kind,
} from "../format/entries.ts"
import { type FindingKind, Findings } from "./findings.ts"
import type { Geometry } from "../format/geometry.ts"
import { type ReferenceSink, STRUCTURE, type Structure } from "./reference-sink.ts"
import { L2_ENTRY, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { bitmapProblem } from "../format/subclusters.ts"
import { type L2Words, L2Visitor, visitWords } from "./table-reader.ts"

/** L2 tables to collect before they are visited: 50 MB at most. */
const L2_BATCH = 1 << 20

/** Bytes past the end of the file that new structures keep clear of at least. */
const LEAST_REACH = 64 << 20

/**
 * All references but those to the refcount table and blocks, also those to what was cut off from the end of the file: it reads as zeroes
 * (QC-L2-09), and must go on to. So nothing new may be stored there. References far past the end do not count: the file would get too long.
 */
export function countWithCutOff(image: CheckedImage): ClusterCounts {
  const counter = new ReferenceCounter({ ...image, fileSize: 2 * image.fileSize + LEAST_REACH }, new ClusterSet(), new Findings())
  counter.countAll()
  return counter.counts
}

/** Numbers of guest clusters in the active tables. */
export interface AllocationStatistics {
  allocatedClusters: number
  /** Clusters that do not follow the previous one in the file. All compressed ones count. */
  fragmentedClusters: number
  compressedClusters: number
}

export class ReferenceCounter implements ReferenceSink {
  readonly counts = new ClusterCounts()
  readonly statistics: AllocationStatistics = { allocatedClusters: 0, fragmentedClusters: 0, compressedClusters: 0 }
  /** False if a broken structure may hold further references: then no cluster may be freed. */
  complete = true
  /** The places of the snapshots' L1 tables. */
  snapshotL1Tables: readonly Range[] = []
  /** With an external data file: the first guest byte that an L2 table maps, by the table's offset. */
  readonly #tableStarts = new Map<number, number>()
  readonly #image: CheckedImage
  readonly #geometry: Geometry
  readonly #findings: Findings
  readonly #l2Tables: L2Visitor
  /** Clusters whose stored refcount is exactly one: references to them must have COPIED. */
  readonly #storedOne: ClusterSet

  constructor(image: CheckedImage, storedOne: ClusterSet, findings: Findings) {
    this.#image = image
    this.#geometry = image.geometry
    this.#storedOne = storedOne
    this.#findings = findings
    this.#l2Tables = new L2Visitor(image)
  }

  /** Counts all references but those to the refcount table and blocks. */
  countAll(): void {
    const { header, bitmaps, encryptionHeader } = this.#image
    this.add(STRUCTURE.HEADER, 0, this.#geometry.clusterSize)
    const active = { start: header.l1TableOffset, end: header.l1TableOffset + header.l1Size * TABLE_ENTRY_SIZE }
    this.add(STRUCTURE.L1_TABLE, active.start, active.end - active.start)
    this.#countL1Tables([active], true)
    this.snapshotL1Tables = countSnapshotReferences(this.#image, this)
    this.#countL1Tables(this.snapshotL1Tables, false)
    if (encryptionHeader !== undefined) this.add(STRUCTURE.ENCRYPTION_HEADER, encryptionHeader.offset, encryptionHeader.length)
    if (bitmaps !== undefined) countBitmapReferences(this.#image, bitmaps, this)
  }

  countRefcountTable(): void {
    const { refcountTableOffset, refcountTableClusters } = this.#image.header
    this.add(STRUCTURE.REFCOUNT_TABLE, refcountTableOffset, refcountTableClusters * this.#geometry.clusterSize)
  }

  report(kind: FindingKind, message: string, offset: number): void {
    this.#findings.add(kind, message, offset)
  }

  /** Reports a broken structure that may hold references. */
  reportUnfollowed(kind: FindingKind, message: string, offset: number): void {
    this.complete = false
    this.report(kind, message, offset)
  }

  add(structure: Structure, offset: number, length: number, times = 1, at = offset): void {
    const { clusterSize } = this.#geometry
    const end = this.#endOf(structure, offset, length, at)
    if (end <= offset) return
    const last = Math.floor((end - 1) / clusterSize)
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) this.#count(structure, cluster, times)
  }

  addAll(structure: Structure, ranges: readonly Range[]): void {
    const { clusterSize } = this.#geometry
    const inside = ranges.map(({ start, end }) => ({ start, end: this.#endOf(structure, start, end - start, start) }))
      .filter(({ start, end }) => start < end)
    const clusters = inside.map(({ start, end }) => ({ start: Math.floor(start / clusterSize), end: Math.ceil(end / clusterSize) }))
    for (const { start, end, times } of coveredRanges(clusters)) {
      for (let cluster = start; cluster < end; cluster++) this.#count(structure, cluster, times)
    }
  }

  /**
   * Clusters of guest data and of L2 tables may have several references: their next change is made elsewhere. All other structures change
   * in place, so two of them in one cluster destroy each other, even if its refcount is right. Snapshots may share their L1 tables.
   */
  #count(structure: Structure, cluster: number, times: number): void {
    const { use } = structure
    if (use === CLUSTER_USE.OTHER || use === CLUSTER_USE.L1_TABLE) {
      const isOwn = structure === STRUCTURE.SNAPSHOT_L1_TABLE || times === 1
      if (!isOwn || this.counts.hasOtherUse(cluster, CLUSTER_USE.DATA | CLUSTER_USE.L2_TABLE)) {
        const offset = cluster * this.#geometry.clusterSize
        this.report("overlap", `${structure.name} shares the cluster at byte ${offset} with other metadata`, offset)
      }
    }
    this.counts.add(cluster, times, use)
  }

  /**
   * The end of the part of a reference that counts: all of it, or what the file has of it. A reference may reach past the end of the file
   * by less than a cluster, because a file may end inside its last cluster (QC-CHK-05).
   */
  #endOf(structure: Structure, offset: number, length: number, at: number): number {
    const { fileSize } = this.#image
    if (length <= 0 || offset + length - fileSize < this.#geometry.clusterSize) return offset + length
    this.report(
      "beyond-end",
      `${structure.name} at byte ${offset} lies past the end of the file, which has ${fileSize} bytes`,
      at,
    )
    return Math.max(offset, fileSize)
  }

  /** Counts the L2 tables that L1 tables refer to, and the references of these. Works in batches, because counts add up. */
  #countL1Tables(tables: readonly Range[], active: boolean): void {
    const l2Tables = new Map<number, number>()
    for (const { start, end, times } of coveredRanges(tables)) {
      visitWords(this.#image.file, start, (end - start) / TABLE_ENTRY_SIZE, (hi, lo, at) => {
        const offset = this.#checkL1Entry(hi, lo, at, active)
        if (offset === undefined) return
        this.add(STRUCTURE.L2_TABLE, offset, this.#geometry.clusterSize, times, at)
        l2Tables.set(offset, (l2Tables.get(offset) ?? 0) + times)
        if (this.#geometry.hasDataFile) this.#tableStarts.set(offset, ((at - start) / TABLE_ENTRY_SIZE) * this.#geometry.l2Coverage)
        if (l2Tables.size >= L2_BATCH) this.#countL2Tables(l2Tables, active)
      })
    }
    this.#countL2Tables(l2Tables, active)
  }

  /** Returns the offset of the L2 table, if it has a readable one. */
  #checkL1Entry(hi: number, lo: number, at: number, active: boolean): number | undefined {
    const entry = decodeL1Entry(hi, lo, this.#geometry)
    if (entry.reserved) this.report("reserved-bits", `the L1 entry at byte ${at} has reserved bits set`, at)
    // QEMU's check takes this entry for a table at byte 0.
    else if (entry.kind === "empty" && isCopied(hi)) this.report("reserved-bits", `the L1 entry at byte ${at} has COPIED, but no table`, at)
    if (entry.kind === "empty") return undefined
    if (entry.kind === "corrupt") {
      this.reportUnfollowed("alignment", `the L1 entry at byte ${at} points to byte ${entry.offset}: ${entry.reason}`, at)
      return undefined
    }
    if (active) this.#checkCopied(entry.offset, entry.copied, "L1", at)
    return entry.offset
  }

  #countL2Tables(tables: Map<number, number>, active: boolean): void {
    for (const [offset, times] of tables) {
      if (active && this.#geometry.hasDataFile) this.#checkPlaces(offset)
      const next = { offset: 0 } // of the next cluster if the disk were contiguous
      this.#l2Tables.visit(offset, (words, at) => this.#countL2Entry(words, at, times, active ? next : undefined))
    }
    tables.clear()
    this.#tableStarts.clear()
  }

  /** Each cluster of an external data file must be at its guest offset (QC-DF-01). */
  #checkPlaces(table: number): void {
    const first = this.#tableStarts.get(table) ?? 0
    this.#l2Tables.visit(table, ({ hi, lo }, at) => {
      const kind = l2Kind(hi, lo, this.#geometry)
      const guest = first + ((at - table) / this.#geometry.l2EntrySize) * this.#geometry.clusterSize
      const host = hostOffset(hi, lo)
      if ((kind !== L2_KIND.NORMAL && kind !== L2_KIND.ZERO_ALLOCATED) || host === guest) return
      this.report("entry", `the L2 entry at byte ${at} names byte ${host} of the external data file for byte ${guest} of the disk`, at)
    })
  }

  #countL2Entry(words: Readonly<L2Words>, at: number, times: number, next: { offset: number } | undefined): void {
    const { clusterSize } = this.#geometry
    const { hi, lo } = words
    const kind = l2Kind(hi, lo, this.#geometry)
    this.#checkBitmap(kind, words, at)
    if ((hi & L2_ENTRY.COMPRESSED_HI) === 0 && ((hi & L2_ENTRY.RESERVED_HI) !== 0 || (lo & L2_ENTRY.RESERVED_LO) !== 0)) {
      this.report("reserved-bits", `the L2 entry at byte ${at} has reserved bits set`, at)
    }
    switch (kind) {
      case L2_KIND.NORMAL:
      case L2_KIND.ZERO_ALLOCATED: {
        const offset = hostOffset(hi, lo)
        if (!this.#geometry.hasDataFile) this.add(STRUCTURE.DATA, offset, clusterSize, times, at)
        if (next === undefined) return
        this.#checkCopied(offset, isCopied(hi), "L2", at)
        this.statistics.allocatedClusters += times
        if (next.offset !== 0 && next.offset !== offset) this.statistics.fragmentedClusters += times
        next.offset = offset + clusterSize
        return
      }
      case L2_KIND.COMPRESSED:
        this.add(STRUCTURE.COMPRESSED, compressedOffset(hi, lo, this.#geometry), compressedLength(hi, lo, this.#geometry), times, at)
        if (isCopied(hi)) this.report("compressed-copied", `the L2 entry at byte ${at} is of a compressed cluster but has COPIED set`, at)
        if (next === undefined) return
        this.statistics.allocatedClusters += times
        this.statistics.compressedClusters += times
        this.statistics.fragmentedClusters += times
        return
      case L2_KIND.CORRUPT:
        this.#countCorruptEntry(hi, lo, at, times)
    }
  }

  /** The subclusters of an extended entry; without one both halves are 0 (QC-EL2-04, QC-EL2-06). */
  #checkBitmap(kind: L2Kind, { zero, allocated }: Readonly<L2Words>, at: number): void {
    const problem = kind === L2_KIND.COMPRESSED && (zero !== 0 || allocated !== 0)
      ? "a compressed cluster has a bitmap of subclusters"
      : bitmapProblem(kind, zero, allocated)
    if (problem !== undefined) this.report("subclusters", `the L2 entry at byte ${at} is invalid: ${problem}`, at)
  }

  #countCorruptEntry(hi: number, lo: number, at: number, times: number): void {
    const entry = decodeL2Entry(hi, lo, this.#geometry)
    const reason = entry.kind === "corrupt" ? `: ${entry.reason}` : ""
    const { hasDataFile } = this.#geometry
    if ((hi & L2_ENTRY.COMPRESSED_HI) !== 0) {
      return this.report(hasDataFile ? "entry" : "beyond-end", `the L2 entry at byte ${at} is invalid${reason}`, at)
    }
    this.reportUnfollowed("alignment", `the L2 entry at byte ${at} is invalid${reason}`, at)
    // A zero flag in version 2: the cluster is still referenced if a program clears the flag.
    const offset = hostOffset(hi, lo)
    if (!hasDataFile && offset !== 0 && offset % this.#geometry.clusterSize === 0) {
      this.add(STRUCTURE.DATA, offset, this.#geometry.clusterSize, times, at)
    }
  }

  #checkCopied(offset: number, copied: boolean, level: "L1" | "L2", at: number): void {
    // The clusters of an external data file have no refcounts: each is used once (QC-DF-02).
    const one = (level === "L2" && this.#geometry.hasDataFile) || this.#storedOne.has(offset / this.#geometry.clusterSize)
    if (one === copied) return
    this.report(
      "copied",
      `the ${level} entry at byte ${at} has COPIED ${copied ? "set, but the refcount is not one" : "clear, but the refcount is one"}`,
      at,
    )
  }
}
