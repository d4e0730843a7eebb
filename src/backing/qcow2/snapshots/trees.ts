/** Visits all clusters of a tree of L1 and L2 tables, in runs. Reads each L2 table once, even if several entries name it. */
import { viewOf } from "../../bytes/fields.ts"
import {
  compressedLength, compressedOffset, decodeL2Entry, hostOffset, l1TableOffset, L2_KIND, l2Kind, plainHostOffset,
} from "../format/entries.ts"
import type { Geometry } from "../format/geometry.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { ClusterFile, CorruptMetadata } from "../metadata/cluster-file.ts"

/** Called with contiguous clusters that an entry refers to. */
export type RunVisitor = (first: number, count: number) => void

export interface TreeSource {
  readonly file: ClusterFile
  readonly geometry: Geometry
}

/** Reads an L1 table of `entries` entries at byte `offset`; it is zero beyond the end of the file. */
export function readL1(file: ClusterFile, offset: number, entries: number): Uint8Array {
  const bytes = new Uint8Array(entries * TABLE_ENTRY_SIZE)
  if (bytes.length > 0) file.read(bytes, offset)
  return bytes
}

/** Host byte of the L2 table that entry `index` of an L1 table names; 0 without one. @throws CorruptMetadata */
export function tableOffsetOf(l1: DataView, index: number, { file, geometry }: TreeSource): number {
  const hi = l1.getUint32(index * TABLE_ENTRY_SIZE)
  const lo = l1.getUint32(index * TABLE_ENTRY_SIZE + 4)
  // Nearly all entries of a huge disk.
  if (hi === 0 && lo === 0) return 0
  const offset = l1TableOffset(hi, lo, geometry)
  if (offset < 0) throw file.corrupt(`L1 entry ${index} does not name a cluster`, index * TABLE_ENTRY_SIZE)
  return offset
}

/** Host bytes of the L2 tables that an L1 table names, ascending: one for each entry that has a table. @throws CorruptMetadata */
export function tableOffsets(l1: DataView, source: TreeSource): Float64Array {
  const offsets: number[] = []
  for (let index = 0; index < l1.byteLength / TABLE_ENTRY_SIZE; index++) {
    const offset = tableOffsetOf(l1, index, source)
    if (offset !== 0) offsets.push(offset)
  }
  return Float64Array.from(offsets).sort()
}

/**
 * Calls `visit` for all clusters that the tree of an L1 table refers to: L2 tables, and their clusters. `times` is the number of L1 entries
 * that name the table.
 */
export function visitTree(source: TreeSource, l1: Uint8Array, visit: (first: number, count: number, times: number) => void): void {
  const { file, geometry } = source
  const { clusterSize } = geometry
  const sorted = tableOffsets(viewOf(l1), source)
  const bytes = new Uint8Array(clusterSize)
  const table = viewOf(bytes)
  for (let at = 0; at < sorted.length;) {
    const offset = sorted[at] ?? 0
    let times = 1
    while (sorted[at + times] === offset) times++
    at += times
    // Called before the table is read, so that the visitor refuses tables with refcount 0: a small file can only have few others.
    visit(offset / clusterSize, 1, times)
    if (geometry.hasDataFile) continue
    file.read(bytes, offset)
    visitTable(source, table, offset, (first, count) => visit(first, count, times))
  }
}

/** Calls `visit` for the clusters of the image file that an L2 table refers to (QC-DF-02). @throws CorruptMetadata */
export function visitTable({ file, geometry }: TreeSource, table: DataView, offset: number, visit: RunVisitor): void {
  const { clusterSize } = geometry
  if (geometry.hasDataFile) return
  let start = 0
  let next = 0
  for (let at = 0; at < table.byteLength; at += geometry.l2EntrySize) {
    const hi = table.getUint32(at)
    const lo = table.getUint32(at + 4)
    if (hi === 0 && lo === 0) continue
    let host = plainHostOffset(hi, lo, clusterSize)
    if (host < 0) {
      const kind = l2Kind(hi, lo, geometry)
      if (kind === L2_KIND.CORRUPT) throw corruptEntry(file, hi, lo, geometry, offset + at)
      if (kind === L2_KIND.COMPRESSED) visitCompressed(hi, lo, geometry, visit)
      if (kind !== L2_KIND.NORMAL && kind !== L2_KIND.ZERO_ALLOCATED) continue
      host = hostOffset(hi, lo)
    }
    if (host === next) {
      next += clusterSize
      continue
    }
    if (next > start) visit(start / clusterSize, (next - start) / clusterSize)
    start = host
    next = host + clusterSize
  }
  if (next > start) visit(start / clusterSize, (next - start) / clusterSize)
}

/** A compressed cluster refers to each host cluster that its sectors touch (QC-CMP-09). */
function visitCompressed(hi: number, lo: number, geometry: Geometry, visit: RunVisitor): void {
  const start = compressedOffset(hi, lo, geometry)
  const first = Math.floor(start / geometry.clusterSize)
  const last = Math.floor((start + compressedLength(hi, lo, geometry) - 1) / geometry.clusterSize)
  visit(first, last - first + 1)
}

function corruptEntry(file: ClusterFile, hi: number, lo: number, geometry: Geometry, at: number): CorruptMetadata {
  const entry = decodeL2Entry(hi, lo, geometry)
  return file.corrupt(`the L2 entry at byte ${at}: ${entry.kind === "corrupt" ? entry.reason : "it is invalid"}`, at)
}
