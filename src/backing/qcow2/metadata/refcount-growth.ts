/** Plans the size and place of a refcount table that has to grow. */
import { BackingError } from "../../backing.ts"
import type { Geometry } from "../format/geometry.ts"
import { LIMIT, TABLE_ENTRY_SIZE } from "../format/spec.ts"

export interface TablePlan {
  /** First cluster of the table. The blocks follow it. */
  readonly start: number
  /** Clusters of the table. */
  readonly clusters: number
  /** New blocks: they describe all clusters from the end of the old table's coverage to the last of these blocks. */
  readonly blocks: number
}

/**
 * Plans a larger table to replace one of `length` bytes: at the first cluster that the old one does not describe, or at cluster `behind` if
 * that is higher. Undefined at the limit.
 */
export function planTable(
  { clusterSize, refcountBlockEntries }: Geometry, { length, behind }: { readonly length: number; readonly behind: number },
): TablePlan | undefined {
  const entries = length / TABLE_ENTRY_SIZE
  const covered = entries * refcountBlockEntries
  const start = Math.max(covered, behind)
  // 1.5 times the size plus a cluster, but not above the limit, which is a multiple of every cluster size.
  const most = LIMIT.REFCOUNT_TABLE_BYTES / clusterSize
  let clusters = Math.min(Math.ceil((length * 1.5) / clusterSize) + 1, most)
  let blocks = 0
  for (let isFixed = false; !isFixed;) {
    while (blocks * refcountBlockEntries < start - covered + clusters + blocks) blocks++
    const needed = Math.ceil(((entries + blocks) * TABLE_ENTRY_SIZE) / clusterSize)
    isFixed = needed <= clusters
    clusters = Math.max(clusters, needed)
  }
  return clusters <= most && Number.isSafeInteger((start + clusters + blocks) * clusterSize) ? { start, clusters, blocks } : undefined
}

/** The error if the table cannot grow. */
export function tableFull(path: string): BackingError {
  const message = `the image cannot grow: its refcount table has reached the limit of ${LIMIT.REFCOUNT_TABLE_BYTES} bytes`
  return new BackingError("no-space", message, { path })
}
