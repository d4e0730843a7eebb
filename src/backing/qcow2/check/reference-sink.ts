/** ReferenceSink: the checks of each kind of structure report references and faults to it. */
import { CLUSTER_USE, type ClusterUse } from "./cluster-counts.ts"
import type { FindingKind } from "./findings.ts"
import type { Range } from "./covered-ranges.ts"

/** A kind of structure that clusters are used for. */
export interface Structure {
  /** For messages. */
  readonly name: string
  readonly use: ClusterUse
}

export const STRUCTURE = {
  HEADER: { name: "the header", use: CLUSTER_USE.OTHER },
  L1_TABLE: { name: "the L1 table", use: CLUSTER_USE.L1_TABLE },
  L2_TABLE: { name: "an L2 table", use: CLUSTER_USE.L2_TABLE },
  DATA: { name: "a data cluster", use: CLUSTER_USE.DATA },
  COMPRESSED: { name: "a compressed cluster", use: CLUSTER_USE.DATA },
  SNAPSHOT_TABLE: { name: "the snapshot table", use: CLUSTER_USE.OTHER },
  SNAPSHOT_L1_TABLE: { name: "a snapshot's L1 table", use: CLUSTER_USE.L1_TABLE },
  REFCOUNT_TABLE: { name: "the refcount table", use: CLUSTER_USE.OTHER },
  REFCOUNT_BLOCK: { name: "a refcount block", use: CLUSTER_USE.OTHER },
  BITMAP_DIRECTORY: { name: "the bitmap directory", use: CLUSTER_USE.OTHER },
  BITMAP_TABLE: { name: "a bitmap table", use: CLUSTER_USE.OTHER },
  BITMAP_DATA: { name: "bitmap data", use: CLUSTER_USE.OTHER },
  ENCRYPTION_HEADER: { name: "the encryption header", use: CLUSTER_USE.OTHER },
} as const satisfies Record<string, Structure>

export interface ReferenceSink {
  /**
   * Counts `times` references (default 1) to each cluster of `length` bytes from `offset`. `at`: byte of the entry that refers to them,
   * default `offset`.
   */
  add(structure: Structure, offset: number, length: number, times?: number, at?: number): void
  /** Counts a reference to each cluster of each range of bytes; the ranges may overlap. */
  addAll(structure: Structure, ranges: readonly Range[]): void
  report(kind: FindingKind, message: string, offset: number): void
  /** Reports a broken structure that may hold references: from then on no cluster may be freed. */
  reportUnfollowed(kind: FindingKind, message: string, offset: number): void
}
