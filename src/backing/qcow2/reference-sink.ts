/** Where those who know one kind of structure deliver the references they find in it, and what is wrong with it. */
import type { FindingKind } from "./findings.ts"
import type { Range } from "./overlaps.ts"

export interface ReferenceSink {
  /** Counts `times` references to each cluster of `length` bytes from `offset`. `at`: byte of the entry that refers to them. */
  add(offset: number, length: number, what: string, times?: number, at?: number): void
  /** Counts a reference to each cluster of each range of bytes; the ranges may overlap. */
  addAll(ranges: readonly Range[], what: string): void
  report(kind: FindingKind, message: string, offset: number): void
  /** Reports something broken that may hold references: from then on nothing that looks unused may be freed. */
  reportUnfollowed(kind: FindingKind, message: string, offset: number): void
}
