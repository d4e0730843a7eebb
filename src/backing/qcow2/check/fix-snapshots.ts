/**
 * Writes a snapshot table that is within the limits again, as `qemu-img check -r all` does: snapshots beyond the most are dropped, extra
 * data beyond the most is cut off, and what version 3 requires is added (QC-SNAP-02, QC-SNAP-03). Snapshots that the file ends before are
 * dropped as well, where QEMU puts empty ones: until then nobody can open the image.
 */
import type { CheckedImage } from "./checked-image.ts"
import { EXTRA_DATA_MINIMUM_V3 } from "./check-snapshots.ts"
import type { Examination } from "./examination.ts"
import { roundUp } from "../format/bytes.ts"
import { layOutSnapshots, scanSnapshotTable, type Snapshot } from "../format/snapshot-table.ts"
import { HeaderStore } from "../metadata/header-store.ts"

function scan({ file, header }: CheckedImage): { readonly snapshots: readonly Snapshot[]; readonly isBeyond: boolean } {
  let isBeyond = false
  const { snapshots } = scanSnapshotTable(file, header, () => (isBeyond = true))
  return { snapshots, isBeyond }
}

/** Returns whether there was something to mend. The new table lies behind everything, and has no refcounts yet. */
export function fixSnapshots({ image, findings, references }: Examination): boolean {
  const { file, header, geometry } = image
  if (findings.count("snapshot") === 0) return false
  const { snapshots, isBeyond } = scan(image)
  const isShort = header.version >= 3 && snapshots.some(({ extraData }) => extraData.length < EXTRA_DATA_MINIMUM_V3)
  if (!isBeyond && !isShort) return false
  const { clusterSize } = geometry
  const end = Math.max(roundUp(image.fileSize, clusterSize), (references.counts.highest + 1) * clusterSize)
  const offset = snapshots.length === 0 ? 0 : end
  const { bytes } = layOutSnapshots(snapshots, { offset, diskSize: header.size, path: file.path })
  const padded = new Uint8Array(roundUp(bytes.length, clusterSize))
  padded.set(bytes)
  if (padded.length > 0) file.write(padded, offset)
  file.sync()
  new HeaderStore(file, header).writeTables({ ...header, snapshotCount: snapshots.length, snapshotsOffset: offset })
  file.sync()
  return true
}
