/** Finds a snapshot by its id or name, and makes the id of the next one (QC-SNAP-11). */
import { BackingError } from "../../backing.ts"
import { headerGeometry, type Qcow2Header } from "../format/header.ts"
import { type Snapshot, snapshotL1Problem, snapshotSizeProblem } from "../format/snapshot-table.ts"

/** The snapshot with that id, otherwise the first one with that name. */
function findSnapshot(snapshots: readonly Snapshot[], idOrName: string): Snapshot | undefined {
  return snapshots.find(({ id }) => id === idOrName) ?? snapshots.find(({ name }) => name === idOrName)
}

/** One more than the highest numeric id. */
export function newId(snapshots: readonly Snapshot[]): string {
  let highest = 0n
  for (const { id } of snapshots) {
    if (!/^\d{1,20}$/.test(id)) continue
    const number = BigInt(id)
    if (number > highest) highest = number
  }
  return String(highest + 1n)
}

/** The snapshot with that id or name. @throws BackingError `not-found`, and `corrupt` for one with an invalid L1 table */
export function usableSnapshot(snapshots: readonly Snapshot[], idOrName: string, header: Qcow2Header, path: string): Snapshot {
  const snapshot = findSnapshot(snapshots, idOrName)
  if (snapshot === undefined) throw new BackingError("not-found", `there is no snapshot with the id or the name "${idOrName}"`, { path })
  const problem = snapshotL1Problem(snapshot, headerGeometry(header))
  if (problem === undefined) return snapshot
  throw new BackingError("corrupt", `snapshot "${idOrName}" cannot be used: ${problem}; check and repair the image`, { path })
}

/** `usableSnapshot` for a snapshot whose disk is read. @throws as that, and `corrupt` for an invalid disk size */
export function readableSnapshot(snapshots: readonly Snapshot[], idOrName: string, header: Qcow2Header, path: string): Snapshot {
  const snapshot = usableSnapshot(snapshots, idOrName, header, path)
  const problem = snapshotSizeProblem(snapshot, headerGeometry(header))
  if (problem === undefined) return snapshot
  throw new BackingError("corrupt", `snapshot "${idOrName}" cannot be read: ${problem}; delete it`, { path })
}

/** The header with which a snapshot's disk is read. */
export function snapshotHeader(header: Qcow2Header, snapshot: Snapshot): Qcow2Header {
  const { l1TableOffset, l1Size, diskSize = header.size } = snapshot
  return { ...header, l1TableOffset, l1Size, size: diskSize }
}
