/**
 * Corrects flags in L1 and L2 entries: COPIED in the active tables and, on request, reserved bits, COPIED and bitmaps of compressed
 * clusters, and unaligned preallocated clusters. The content of the disk does not change.
 */
import { viewOf } from "../../bytes/fields.ts"
import type { CheckedImage } from "./checked-image.ts"
import { CLUSTER_USE, type ClusterUse } from "./cluster-counts.ts"
import { coveredRanges, type Range } from "./covered-ranges.ts"
import { decodeL1Entry, hostOffset, L2_KIND, l2Kind, type Word } from "../format/entries.ts"
import type { Examination } from "./examination.ts"
import { EXTENDED_L2, L1_ENTRY, L2_ENTRY, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { readPadded, visitWords } from "./table-reader.ts"

export type FixScope = "copied" | "all"

/** Maximum offsets of L2 tables to remember, so that none is corrected twice. Further tables may be read again. */
const REMEMBERED = 1 << 20

/** Corrects the entries of all tables. The refcounts on disk must still be those of `examination`. */
export function fixEntries(examination: Examination, scope: FixScope): void {
  const { image, references } = examination
  const { l1TableOffset, l1Size } = image.header
  const active = { start: l1TableOffset, end: l1TableOffset + l1Size * TABLE_ENTRY_SIZE }
  const fixer = new EntryFixer(examination, scope)
  fixer.fixL1([active], true)
  // COPIED has no meaning in the tables of snapshots (QC-SNAP-08).
  if (scope === "all") fixer.fixL1(coveredRanges(references.snapshotL1Tables), false)
}

class EntryFixer {
  readonly #image: CheckedImage
  readonly #examination: Examination
  readonly #scope: FixScope

  constructor(examination: Examination, scope: FixScope) {
    this.#image = examination.image
    this.#examination = examination
    this.#scope = scope
  }

  /** Corrects L1 tables, and the L2 tables that they refer to. */
  fixL1(tables: readonly Range[], active: boolean): void {
    const { clusterSize } = this.#image.geometry
    const done = new Set<number>()
    for (const { start, end } of tables) {
      const fixL1Entries = (view: DataView): boolean => fixWords(view, TABLE_ENTRY_SIZE, (hi, lo) => this.#fixedL1(hi, lo, active))
      this.#fixTable(start, end, CLUSTER_USE.L1_TABLE, fixL1Entries)
      visitWords(this.#image.file, start, (end - start) / TABLE_ENTRY_SIZE, (hi, lo) => {
        const entry = decodeL1Entry(hi, lo, this.#image.geometry)
        if (entry.kind !== "table" || done.has(entry.offset)) return
        if (done.size >= REMEMBERED) done.clear()
        done.add(entry.offset)
        this.#fixTable(entry.offset, entry.offset + clusterSize, CLUSTER_USE.L2_TABLE, (view) => this.#fixL2Entries(view, active))
      })
    }
  }

  #fixedL1(hi: number, lo: number, active: boolean): Word {
    const entry = decodeL1Entry(hi, lo, this.#image.geometry)
    if (entry.kind === "empty" && this.#scope === "all") return { hi: 0, lo: 0 }
    const clean = this.#scope === "all" ? { hi: (hi & ~L1_ENTRY.RESERVED_HI) >>> 0, lo: (lo & ~L1_ENTRY.RESERVED_LO) >>> 0 } : { hi, lo }
    return entry.kind === "table" && active ? this.#withCopied(clean, entry.offset) : clean
  }

  #fixL2Entries(view: DataView, active: boolean): boolean {
    const { geometry } = this.#image
    const areWordsFixed = fixWords(view, geometry.l2EntrySize, (hi, lo, at) => {
      const hasSubclusters = geometry.extendedL2 && view.getUint32(at + EXTENDED_L2.ALLOCATED_BITS) !== 0
      return this.#fixedL2(hi, lo, hasSubclusters, active)
    })
    const areBitmapsFixed = this.#scope === "all" && geometry.extendedL2 && clearCompressedBitmaps(view)
    return areWordsFixed || areBitmapsFixed
  }

  #fixedL2(hi: number, lo: number, hasSubclusters: boolean, active: boolean): Word {
    const all = this.#scope === "all"
    const withoutReserved = all ? { hi: (hi & ~L2_ENTRY.RESERVED_HI) >>> 0, lo: (lo & ~L2_ENTRY.RESERVED_LO) >>> 0 } : { hi, lo }
    switch (l2Kind(hi, lo, this.#image.geometry)) {
      case L2_KIND.UNALLOCATED:
      case L2_KIND.ZERO:
        return withoutReserved
      case L2_KIND.NORMAL:
      case L2_KIND.ZERO_ALLOCATED:
        // The clusters of an external data file have no refcounts (QC-DF-02).
        if (this.#image.geometry.hasDataFile) return { hi: (withoutReserved.hi | L2_ENTRY.COPIED_HI) >>> 0, lo: withoutReserved.lo }
        return active ? this.#withCopied(withoutReserved, hostOffset(hi, lo)) : withoutReserved
      case L2_KIND.COMPRESSED:
        return all ? { hi: (hi & ~L2_ENTRY.COPIED_HI) >>> 0, lo } : { hi, lo }
      case L2_KIND.CORRUPT:
        // An unaligned preallocated cluster reads as zeroes or as the backing image, so its offset can be dropped (QC-CHK-07).
        if (!all || (hi & L2_ENTRY.COMPRESSED_HI) !== 0) return { hi, lo }
        if (this.#image.geometry.extendedL2) return hasSubclusters ? { hi, lo } : { hi: 0, lo: 0 }
        return this.#isZero(lo) ? { hi: 0, lo: L2_ENTRY.ZERO_LO } : { hi, lo }
    }
  }

  #isZero(lo: number): boolean {
    return this.#image.geometry.version >= 3 && (lo & L2_ENTRY.ZERO_LO) !== 0
  }

  #withCopied(word: Word, offset: number): Word {
    const one = this.#examination.ones.has(offset / this.#image.geometry.clusterSize)
    return { hi: one ? (word.hi | L2_ENTRY.COPIED_HI) >>> 0 : (word.hi & ~L2_ENTRY.COPIED_HI) >>> 0, lo: word.lo }
  }

  /** Rewrites the clusters of a table in which `fix` changes something, except clusters that belong to another structure as well. */
  #fixTable(tableStart: number, tableEnd: number, use: ClusterUse, fix: (view: DataView) => boolean): void {
    const { clusterSize } = this.#image.geometry
    const end = Math.min(tableEnd, this.#image.fileSize)
    for (let start = tableStart; start < end; ) {
      const cluster = Math.floor(start / clusterSize)
      const next = Math.min((cluster + 1) * clusterSize, tableEnd)
      if (!this.#examination.references.counts.hasOtherUse(cluster, use)) {
        const bytes = new Uint8Array(next - start)
        readPadded(this.#image.file, bytes, start)
        if (fix(viewOf(bytes))) this.#image.file.write(bytes, start)
      }
      start = next
    }
  }
}

/** Replaces the first word of each entry that is not zero. Returns whether one has changed. */
function fixWords(view: DataView, entrySize: number, fix: (hi: number, lo: number, at: number) => Word): boolean {
  let changed = false
  for (let at = 0; at < view.byteLength; at += entrySize) {
    const hi = view.getUint32(at)
    const lo = view.getUint32(at + 4)
    if (hi === 0 && lo === 0) continue
    const fixed = fix(hi, lo, at)
    if (fixed.hi === hi && fixed.lo === lo) continue
    view.setUint32(at, fixed.hi)
    view.setUint32(at + 4, fixed.lo)
    changed = true
  }
  return changed
}

/** Clears the bitmaps of compressed clusters, which have no meaning (QC-EL2-06). Returns whether one has changed. */
function clearCompressedBitmaps(view: DataView): boolean {
  let changed = false
  for (let at = 0; at < view.byteLength; at += EXTENDED_L2.ENTRY_SIZE) {
    if ((view.getUint32(at) & L2_ENTRY.COMPRESSED_HI) === 0 || view.getBigUint64(at + EXTENDED_L2.ZERO_BITS) === 0n) continue
    view.setBigUint64(at + EXTENDED_L2.ZERO_BITS, 0n)
    changed = true
  }
  return changed
}
