/**
 * ExtendedL2View: an `L2View` of tables whose entries have a second word, the bitmap of their subclusters. If bits contradict each other,
 * the whole entry is CORRUPT (QC-EL2-04).
 */
import { encodeEntry, L2_KIND, type L2Kind, l2Kind } from "../format/entries.ts"
import { EXTENDED_L2, L2_ENTRY } from "../format/spec.ts"
import {
  ALL_SUBCLUSTERS, bitmapProblem, endOfAllocated, extendedKind, firstAllocated, subclusterBits, subclusterKind, subclusterRun,
} from "../format/subclusters.ts"
import { L2View } from "./l2-view.ts"
import type { CachedTable } from "./table-cache.ts"

const { ENTRY_SIZE, ZERO_BITS, ALLOCATED_BITS, SUBCLUSTERS } = EXTENDED_L2

/** Whether the subclusters from `from` up to but not including `to` are allocated. A function for fast reads, like `plainHost`. */
export function holdsSubclusters(table: DataView, index: number, from: number, to: number): boolean {
  const at = index * ENTRY_SIZE
  const allocated = table.getUint32(at + ALLOCATED_BITS)
  return (table.getUint32(at + ZERO_BITS) & allocated) === 0 && (~allocated & subclusterBits(from, to)) === 0
}

export class ExtendedL2View extends L2View {
  override kind(table: CachedTable, index: number, subcluster: number): L2Kind {
    const { view } = table
    const at = index * ENTRY_SIZE
    const zero = view.getUint32(at + ZERO_BITS)
    const allocated = view.getUint32(at + ALLOCATED_BITS)
    const word = l2Kind(view.getUint32(at), view.getUint32(at + 4), this.geometry)
    const entry = extendedKind(this.geometry.hasDataFile ? this.placed(word, table, index) : word, zero, allocated)
    return subclusterKind(entry, zero, allocated, subcluster)
  }

  override run(table: CachedTable, index: number, subcluster: number, kind: L2Kind): number {
    const at = index * ENTRY_SIZE
    return subclusterRun(kind, table.view.getUint32(at + ZERO_BITS), table.view.getUint32(at + ALLOCATED_BITS), subcluster)
  }

  /** All subclusters of a compressed cluster; otherwise from the first to the last allocated one, in one read and one write (QC-EL2-08). */
  override firstToCopy(table: CachedTable, index: number): number {
    if (this.#isCompressed(table, index)) return 0
    return firstAllocated(table.view.getUint32(index * ENTRY_SIZE + ALLOCATED_BITS))
  }

  override endToCopy(table: CachedTable, index: number): number {
    if (this.#isCompressed(table, index)) return SUBCLUSTERS
    return endOfAllocated(table.view.getUint32(index * ENTRY_SIZE + ALLOCATED_BITS))
  }

  override continues(table: CachedTable, index: number, kind: L2Kind, host: number): boolean {
    if (this.kind(table, index, 0) !== kind) return false
    return kind === L2_KIND.UNALLOCATED || kind === L2_KIND.ZERO || this.host(table, index) === host
  }

  override problem(table: CachedTable, index: number): string {
    const { view } = table
    const at = index * ENTRY_SIZE
    const word = l2Kind(view.getUint32(at), view.getUint32(at + 4), this.geometry)
    return bitmapProblem(word, view.getUint32(at + ZERO_BITS), view.getUint32(at + ALLOCATED_BITS)) ?? super.problem(table, index)
  }

  /** A compressed cluster is replaced by all subclusters, so that nothing of its old bitmap remains (QC-EL2-06). */
  override setNormal(table: CachedTable, index: number, host: number, from: number, to: number): void {
    const at = index * ENTRY_SIZE
    const bits = subclusterBits(from, to)
    const { hi, lo } = encodeEntry({ offset: host, copied: true })
    const { zero, allocated } = this.#bitmap(table, index)
    this.#setBitmap(table, index, zero & ~bits, allocated | bits)
    this.set(table, at, hi, lo)
  }

  override setCompressed(table: CachedTable, index: number, host: number, length: number): void {
    this.#setBitmap(table, index, 0, 0)
    super.setCompressed(table, index, host, length)
  }

  override setZeroFlag(table: CachedTable, index: number, from: number, to: number): void {
    const bits = subclusterBits(from, to)
    const { zero, allocated } = this.#bitmap(table, index)
    this.#setBitmap(table, index, zero | bits, allocated & ~bits)
  }

  override setZero(table: CachedTable, index: number): void {
    this.#setBitmap(table, index, ALL_SUBCLUSTERS, 0)
    this.set(table, index * ENTRY_SIZE, 0, 0)
  }

  #isCompressed(table: CachedTable, index: number): boolean {
    return (table.view.getUint32(index * ENTRY_SIZE) & L2_ENTRY.COMPRESSED_HI) !== 0
  }

  #bitmap(table: CachedTable, index: number): { readonly zero: number; readonly allocated: number } {
    const at = index * ENTRY_SIZE
    return { zero: table.view.getUint32(at + ZERO_BITS), allocated: table.view.getUint32(at + ALLOCATED_BITS) }
  }

  #setBitmap(table: CachedTable, index: number, zero: number, allocated: number): void {
    this.set(table, index * ENTRY_SIZE + ZERO_BITS, zero, allocated)
  }
}
