/** The L2 tables of snapshots, as a list of metadata clusters: protected if `overlapCheck` is "all". */
import type { ImageFile } from "../../image-file.ts"
import { viewOf } from "../../bytes/fields.ts"
import { l1TableOffset } from "../format/entries.ts"
import type { Geometry } from "../format/geometry.ts"
import type { Snapshot } from "../format/snapshot-table.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { ClusterList } from "./cluster-index.ts"

/** Bytes of one read. */
const PIECE = 1 << 20

/** The protection of an image that is open for writing. */
export type OverlapCheck = "cached" | "all"

/** Reads the L1 tables. Reads each byte of the file once, even if many tables overlap. */
export function snapshotL2Tables(file: ImageFile, snapshots: readonly Snapshot[], geometry: Geometry): ClusterList {
  const clusters = new Set<number>()
  const end = file.size()
  const ranges = snapshots
    .map(({ l1TableOffset: start, l1Size }) => ({ start, end: Math.min(end, start + l1Size * TABLE_ENTRY_SIZE) }))
    .sort((one, other) => one.start - other.start)
  let at = 0
  for (const range of ranges) {
    for (at = Math.max(at, range.start); at < range.end; at += PIECE) {
      collect(file, { start: at, length: Math.min(PIECE, range.end - at) }, geometry, clusters)
    }
    at = Math.max(range.start, Math.min(at, range.end))
  }
  return { mostEntries: Math.max(1, clusters.size), forEach: (visit) => clusters.forEach(visit) }
}

function collect(
  file: ImageFile, piece: { readonly start: number; readonly length: number }, geometry: Geometry, found: Set<number>,
): void {
  const bytes = new Uint8Array(piece.length)
  file.read(bytes, piece.start)
  const view = viewOf(bytes)
  for (let at = 0; at + TABLE_ENTRY_SIZE <= bytes.length; at += TABLE_ENTRY_SIZE) {
    const offset = l1TableOffset(view.getUint32(at), view.getUint32(at + 4), geometry)
    if (offset > 0) found.add(offset / geometry.clusterSize)
  }
}
