/** Which snapshot a word means, and the id of the next one (QC-SNAP-11). */
import type { Snapshot } from "../format/snapshot-table.ts"

/** The snapshot with that id, or, without one, the first with that name. */
export function findSnapshot(snapshots: readonly Snapshot[], idOrName: string): Snapshot | undefined {
  return snapshots.find(({ id }) => id === idOrName) ?? snapshots.find(({ name }) => name === idOrName)
}

/** One more than the highest number that is an id. */
export function newId(snapshots: readonly Snapshot[]): string {
  let highest = 0n
  for (const { id } of snapshots) {
    if (!/^\d{1,20}$/.test(id)) continue
    const number = BigInt(id)
    if (number > highest) highest = number
  }
  return String(highest + 1n)
}
