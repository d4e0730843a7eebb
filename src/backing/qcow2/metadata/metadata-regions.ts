/** Makes the map of an image's metadata, for the checks before each write. */
import { BackingError } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import type { Geometry } from "../format/geometry.ts"
import { l1TableOffset } from "../format/entries.ts"
import { encryptionArea, type Qcow2Header } from "../format/header.ts"
import type { ClusterList } from "./cluster-index.ts"
import type { Mapping } from "./mapping.ts"
import { MetadataMap, type MetadataRange } from "./metadata-map.ts"
import type { Refcounts } from "./refcounts.ts"
import { type OverlapCheck, snapshotL2Tables } from "./snapshot-l2-tables.ts"
import { readSnapshotTable, snapshotL1Problem, type SnapshotTable } from "../format/snapshot-table.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { TopTable } from "./top-table.ts"

export interface MetadataSources {
  readonly file: ImageFile
  readonly header: Qcow2Header
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly refcounts: Refcounts
  /** The snapshot table, if it is known: then it is not read. */
  readonly snapshots?: SnapshotTable | undefined
  /** The structures of bitmaps. */
  readonly others: readonly MetadataRange[]
  readonly overlapCheck: OverlapCheck
}

/** The L2 tables that an L1 table names. */
function l2TablesOf(l1: TopTable, geometry: Geometry): ClusterList {
  const forEach: ClusterList["forEach"] = (visit) => {
    const { entryCount: end } = l1
    for (let index = l1.emptyEntries(0, end); index < end; index += 1 + l1.emptyEntries(index + 1, end)) {
      const offset = l1TableOffset(l1.hi(index), l1.lo(index), geometry)
      if (offset > 0) visit(offset / geometry.clusterSize)
    }
  }
  return { mostEntries: l1.entryCount, forEach }
}

function refuse(collision: readonly [string, string] | undefined, { path }: ImageFile): void {
  if (collision === undefined) return
  const message = `${collision[0]} and ${collision[1]} share a cluster: the image can only be opened read-only`
  throw new BackingError("corrupt", message, { path })
}

/**
 * The map of all metadata (QC-OVL-01). @throws BackingError `corrupt` if two structures share a cluster that are changed in place, or one
 * of them and the L1 table of a snapshot
 */
export function mapMetadata(sources: MetadataSources): MetadataMap {
  const { file, header, geometry, mapping, refcounts } = sources
  const snapshots = sources.snapshots ?? readSnapshotTable(file, header)
  // Leaves out an invalid table: its snapshot is refused when it is used.
  const usable = snapshots.snapshots.filter((snapshot) => snapshotL1Problem(snapshot, geometry) === undefined)
  const inactive = sources.overlapCheck === "all" ? snapshotL2Tables(file, usable, geometry) : undefined
  const lists = { l2Tables: l2TablesOf(mapping.l1, geometry), refcountBlocks: refcounts, inactiveL2Tables: inactive }
  const metadata = new MetadataMap(geometry.clusterSize, lists)
  metadata.addRanges([
    { offset: 0, length: geometry.clusterSize, name: "the header" },
    mapping.l1.place,
    refcounts.table.place,
    { offset: header.snapshotsOffset, length: snapshots.byteLength, name: "the snapshot table" },
    { ...(encryptionArea(header) ?? { offset: 0, length: 0 }), name: "the encryption header" },
    ...sources.others,
  ])
  refuse(metadata.findCollision(), file)
  const name = "a snapshot's L1 table"
  const tables = usable.map((snapshot) => ({ offset: snapshot.l1TableOffset, length: snapshot.l1Size * TABLE_ENTRY_SIZE, name }))
  // Snapshots may share their tables, which never change in place. All others do.
  for (const table of tables) {
    const other = metadata.findRange(table)
    refuse(other === undefined ? undefined : [other, name], file)
  }
  metadata.addRanges(tables)
  return metadata
}
