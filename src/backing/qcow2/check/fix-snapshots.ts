/**
 * Rewrites a snapshot table so that it is within the limits, like `qemu-img check -r all`: drops snapshots above the maximum number, cuts
 * extra data to its maximum, and adds the fields that version 3 requires (QC-SNAP-02, QC-SNAP-03). Also drops snapshots past the end of the
 * file, with which nobody can open the image; QEMU replaces them by empty ones.
 */
import type { CheckedImage } from "./checked-image.ts"
import { EXTRA_DATA_MINIMUM_V3 } from "./check-snapshots.ts"
import type { Examination } from "./examination.ts"
import { roundUp } from "../../bytes/fields.ts"
import { layOutSnapshots, scanSnapshotTable, type Snapshot } from "../format/snapshot-table.ts"
import { HeaderStore } from "../metadata/header-store.ts"
import { countWithCutOff } from "./references.ts"

function scan({ file, header }: CheckedImage): { readonly snapshots: readonly Snapshot[]; readonly isBeyond: boolean } {
  let isBeyond = false
  const { snapshots } = scanSnapshotTable(file, header, () => (isBeyond = true))
  return { snapshots, isBeyond }
}

/** Returns whether it has repaired something. The new table is at the end of the file, and has no refcounts yet. */
export function fixSnapshots({ image, findings }: Examination): boolean {
  const { file, header, geometry } = image
  if (findings.count("snapshot") === 0) return false
  const { snapshots, isBeyond } = scan(image)
  const isShort = header.version >= 3 && snapshots.some(({ extraData }) => extraData.length < EXTRA_DATA_MINIMUM_V3)
  if (!isBeyond && !isShort) return false
  const { clusterSize } = geometry
  const end = Math.max(roundUp(image.fileSize, clusterSize), (countWithCutOff(image).highest + 1) * clusterSize)
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
