/**
 * The second word of an extended L2 entry: the kind of each of the 32 subclusters of a cluster. `zero` and `allocated` are its two halves,
 * a bit for each subcluster. [QCOW2] "Extended L2 Entries"
 */
import { L2_KIND, type L2Kind } from "./entries.ts"
import { EXTENDED_L2 } from "./spec.ts"

const { SUBCLUSTERS } = EXTENDED_L2

/** Both halves with every bit set. */
export const ALL_SUBCLUSTERS = 0xffff_ffff

/** The bits of the subclusters from `from` up to but not including `to`. */
export function subclusterBits(from: number, to: number): number {
  // JavaScript takes shift counts modulo 32.
  const below = to === SUBCLUSTERS ? ALL_SUBCLUSTERS : (1 << to) - 1
  return from === SUBCLUSTERS ? 0 : (below & (-1 << from)) >>> 0
}

/** How many bits from bit `from` on are set, without a gap. */
function runOfBits(bits: number, from: number): number {
  const clear = ~bits >>> from
  // The lowest clear bit ends the run.
  return clear === 0 ? SUBCLUSTERS - from : 31 - Math.clz32(clear & -clear)
}

/** The kind of an entry whose first word has the kind `word`; CORRUPT if its bitmap is invalid (QC-EL2-04). */
export function extendedKind(word: L2Kind, zero: number, allocated: number): L2Kind {
  if (word === L2_KIND.NORMAL) return (zero & allocated) === 0 ? word : L2_KIND.CORRUPT
  if (word === L2_KIND.UNALLOCATED) return allocated === 0 ? word : L2_KIND.CORRUPT
  // A compressed cluster has no subclusters: its bitmap is ignored (QC-EL2-06).
  return word
}

/** Why `extendedKind` returns CORRUPT, if not because of the first word. */
export function bitmapProblem(word: L2Kind, zero: number, allocated: number): string | undefined {
  if (word === L2_KIND.NORMAL && (zero & allocated) !== 0) return "a subcluster is both allocated and zero"
  if (word === L2_KIND.UNALLOCATED && allocated !== 0) return "subclusters are allocated, but the cluster has no host offset"
  return undefined
}

/** The kind of subcluster `index` of an entry of that kind. It may be UNALLOCATED although the entry has a cluster. */
export function subclusterKind(entry: L2Kind, zero: number, allocated: number, index: number): L2Kind {
  const bit = 1 << index
  if (entry === L2_KIND.NORMAL) {
    if ((allocated & bit) !== 0) return L2_KIND.NORMAL
    return (zero & bit) === 0 ? L2_KIND.UNALLOCATED : L2_KIND.ZERO_ALLOCATED
  }
  if (entry === L2_KIND.UNALLOCATED) return (zero & bit) === 0 ? L2_KIND.UNALLOCATED : L2_KIND.ZERO
  return entry
}

/** How many subclusters from `index` on have this kind, which is the kind of the first. */
export function subclusterRun(kind: L2Kind, zero: number, allocated: number, index: number): number {
  switch (kind) {
    case L2_KIND.NORMAL:
      return runOfBits(allocated, index)
    case L2_KIND.ZERO:
    case L2_KIND.ZERO_ALLOCATED:
      return runOfBits(zero, index)
    case L2_KIND.UNALLOCATED:
      return runOfBits(~(zero | allocated), index)
    case L2_KIND.COMPRESSED:
    case L2_KIND.CORRUPT:
      return SUBCLUSTERS - index
  }
}

/** The first allocated subcluster; 32 if none is. */
export function firstAllocated(allocated: number): number {
  return allocated === 0 ? SUBCLUSTERS : 31 - Math.clz32(allocated & -allocated)
}

/** The subcluster after the last allocated one; 0 if none is. */
export function endOfAllocated(allocated: number): number {
  return SUBCLUSTERS - Math.clz32(allocated)
}
