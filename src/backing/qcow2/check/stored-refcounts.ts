/** StoredRefcounts: the refcount table and blocks of an image, which a check compares and a repair corrects. */
import { viewOf } from "../../bytes/fields.ts"
import type { CheckedImage } from "./checked-image.ts"
import type { ClusterCounts, ClusterSet } from "./cluster-counts.ts"
import { decodeRefcountTableEntry } from "../format/entries.ts"
import type { Findings } from "./findings.ts"
import { refcountCodec } from "../format/refcount-codec.ts"
import { type ReferenceSink, STRUCTURE } from "./reference-sink.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { readPadded, visitWords } from "./table-reader.ts"

/** Called if the stored refcount differs from the number of references. Returns the refcount to store, or undefined to leave it. */
export type MismatchVisitor = (cluster: number, stored: number, references: number) => number | undefined | void

export class StoredRefcounts {
  /** The table or a block is missing or invalid: writing refcounts would need new blocks. */
  broken = false
  readonly #image: CheckedImage
  readonly #findings: Findings
  /** Offset of the block for each table index that has a usable one. Each offset occurs once. */
  readonly #blocks = new Map<number, number>()
  readonly #fileClusters: number = 0

  /** Reads the refcount table. */
  constructor(image: CheckedImage, findings: Findings) {
    this.#image = image
    this.#findings = findings
    this.#fileClusters = Math.ceil(image.fileSize / image.geometry.clusterSize)
    const { refcountTableOffset: offset, refcountTableClusters: clusters } = image.header
    if (clusters === 0) this.#reportBroken("the image has no refcount table", 0)
    const seen = new Set<number>()
    visitWords(image.file, offset, (clusters * image.geometry.clusterSize) / TABLE_ENTRY_SIZE, (hi, lo, at) => {
      const block = this.#checkEntry(hi, lo, at)
      if (block === undefined) return
      // A second entry for the same block is ignored: a hostile table could make us read a block a million times.
      if (seen.has(block)) {
        return this.#reportBroken(`the refcount table entry at byte ${at} names the block at byte ${block} a second time`, at)
      }
      seen.add(block)
      this.#blocks.set((at - offset) / TABLE_ENTRY_SIZE, block)
    })
  }

  /** Collects the clusters whose stored refcount is exactly one. */
  collectOnes(ones: ClusterSet): void {
    const { get } = refcountCodec(this.#image.geometry.refcountOrder)
    // One cluster more, because a reference may reach past the end of the file by less than a cluster.
    this.#forEachBlock(this.#fileClusters + 1, (view, first, count) => {
      for (let index = 0; index < count; index++) if (get(view, index) === 1) ones.add(first + index)
      return false
    })
  }

  /** Counts references to the blocks, after all others: a block that is used for something else as well is unusable. */
  countReferences(sink: ReferenceSink, counts: ClusterCounts): void {
    const { clusterSize } = this.#image.geometry
    for (const block of this.#blocks.values()) sink.add(STRUCTURE.REFCOUNT_BLOCK, block, clusterSize)
    for (const block of this.#blocks.values()) {
      const references = counts.get(block / clusterSize)
      if (references !== 1) this.#reportBroken(`the refcount block at byte ${block} has ${references} references`, block)
    }
  }

  /**
   * Compares every cluster of the file with `counts` and stores what `visit` returns. Returns the highest cluster with a refcount or a
   * reference, or -1.
   */
  forEachMismatch(counts: ClusterCounts, visit: MismatchVisitor): number {
    const { get, set } = refcountCodec(this.#image.geometry.refcountOrder)
    let highest = counts.highest
    this.#forEachBlock(Math.max(this.#fileClusters, counts.highest + 1), (view, first, count) => {
      let changed = false
      for (let index = 0; index < count; index++) {
        const stored = get(view, index)
        const references = counts.get(first + index)
        if (stored !== 0 && first + index > highest) highest = first + index
        if (stored === references) continue
        const wanted = visit(first + index, stored, references)
        if (wanted === undefined) continue
        set(view, index, wanted)
        changed = true
      }
      return changed
    })
    return highest
  }

  /** Visits the referenced clusters that no block covers: their refcount is 0 and cannot be changed without a new block. */
  forEachUncovered(counts: ClusterCounts, visit: (cluster: number, references: number) => void): void {
    const { refcountBlockEntries } = this.#image.geometry
    counts.forEach((cluster, references) => {
      if (!this.#blocks.has(Math.floor(cluster / refcountBlockEntries))) visit(cluster, references)
    })
  }

  #checkEntry(hi: number, lo: number, at: number): number | undefined {
    const entry = decodeRefcountTableEntry(hi, lo, this.#image.geometry)
    if (entry.reserved) {
      this.broken = true
      this.#findings.add("reserved-bits", `the refcount table entry at byte ${at} has reserved bits set`, at)
    }
    if (entry.kind === "empty") return undefined
    if (entry.kind === "corrupt") {
      this.#reportBroken(`the refcount table entry at byte ${at} points to byte ${entry.offset}: ${entry.reason}`, at)
      return undefined
    }
    if (entry.offset >= this.#image.fileSize) {
      this.#reportBroken(`the refcount table entry at byte ${at} points to byte ${entry.offset}, past the end of the file`, at)
      return undefined
    }
    return entry.offset
  }

  /** Visits each block that covers some of the first `clusters` clusters, with their number; writes it back if `visit` returns true. */
  #forEachBlock(clusters: number, visit: (view: DataView, firstCluster: number, count: number) => boolean): void {
    const { file, geometry } = this.#image
    const block = new Uint8Array(geometry.clusterSize)
    const view = viewOf(block)
    for (const [index, offset] of this.#blocks) {
      const first = index * geometry.refcountBlockEntries
      const count = Math.min(geometry.refcountBlockEntries, clusters - first)
      if (count <= 0) continue
      readPadded(file, block, offset)
      if (visit(view, first, count)) file.write(block, offset)
    }
  }

  #reportBroken(message: string, offset: number): void {
    this.broken = true
    this.#findings.add("refcount-block", message, offset)
  }
}
