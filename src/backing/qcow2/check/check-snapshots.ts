/** Counts the references of internal snapshots to their table and their L1 tables, and reports faults (QC-SNAP-03, QC-CHK-06). */
import type { CheckedImage } from "./checked-image.ts"
import type { Range } from "./covered-ranges.ts"
import { type ReferenceSink, STRUCTURE } from "./reference-sink.ts"
import { scanSnapshotTable, snapshotL1Problem, type SnapshotTable } from "../format/snapshot-table.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"

/** Version 3 requires the 64-bit VM state size and the disk size (QC-SNAP-02). */
export const EXTRA_DATA_MINIMUM_V3 = 16

/** Counts the snapshot table and the L1 tables, and returns the places of the L1 tables. */
export function countSnapshotReferences(image: CheckedImage, sink: ReferenceSink): Range[] {
  const { header, geometry } = image
  const table = readTable(image, sink)
  sink.add(STRUCTURE.SNAPSHOT_TABLE, header.snapshotsOffset, table.byteLength)
  const l1Tables: Range[] = []
  for (const snapshot of table.snapshots) {
    if (header.version >= 3 && snapshot.extraData.length < EXTRA_DATA_MINIMUM_V3) {
      sink.report(
        "snapshot",
        `the snapshot at byte ${snapshot.offset} has ${snapshot.extraData.length} bytes of extra data; ` +
          `version 3 requires ${EXTRA_DATA_MINIMUM_V3}`,
        snapshot.offset,
      )
    }
    const problem = snapshotL1Problem(snapshot, geometry)
    if (problem === undefined) {
      l1Tables.push({ start: snapshot.l1TableOffset, end: snapshot.l1TableOffset + snapshot.l1Size * TABLE_ENTRY_SIZE })
    } else {
      sink.reportUnfollowed("snapshot", `the snapshot at byte ${snapshot.offset} cannot be followed: ${problem}`, snapshot.offset)
    }
  }
  sink.addAll(STRUCTURE.SNAPSHOT_L1_TABLE, l1Tables)
  return l1Tables
}

function readTable(image: CheckedImage, sink: ReferenceSink): SnapshotTable {
  return scanSnapshotTable(image.file, image.header, ({ message, offset, isLoss }) => {
    if (isLoss) sink.reportUnfollowed("snapshot", message, offset)
    else sink.report("snapshot", message, offset)
  })
}
