/**
 * Takes, applies and deletes snapshots: which trees gain or lose a reference, and the new header.
 *
 * A new snapshot takes over the active L1 table. The active disk continues with copies of the tables whose COPIED flags have to be cleared.
 */
import { isZero } from "../../bytes/buffers.ts"
import { makeSnapshot, type Snapshot, type SnapshotTable } from "../format/snapshot-table.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { correctTree } from "./active-tree.ts"
import { rewrite, type Rewrite } from "./rewrite.ts"
import { readL1 } from "./trees.ts"
import { putVmState, vmStateIndex, type VmStateSource } from "./vm-state.ts"
import type { WholeImage } from "./whole-image.ts"

/** The name of a new snapshot, and its content besides the disk. */
export interface SnapshotFields {
  readonly id: string
  readonly name: string
  readonly dateSeconds: number
  readonly dateNanoseconds: number
  readonly vmClockNanoseconds: bigint
  readonly icount: bigint | undefined
  readonly vmState: VmStateSource | undefined
}

/** Takes a snapshot (QC-SNAP-05). Returns its entry. */
export function takeSnapshot(image: WholeImage, known: SnapshotTable, fields: SnapshotFields): Snapshot {
  return rewrite(image, known, (change) => {
    const { header } = image
    const { vmState, ...described } = fields
    const active = change.activeL1()
    const hadState = dropVmState(change, active)
    change.addTree(active, 1)
    let place = header.l1TableOffset
    let kept: Uint8Array = active.slice()
    if (vmState !== undefined || hadState) {
      change.leave(header.l1TableOffset, active.length)
      if (vmState !== undefined) kept = putVmState(change, vmState, active)
      place = change.put(kept)
    }
    correctTree(change, active, "none")
    const snapshot = makeSnapshot({
      ...described, l1TableOffset: place, l1Size: kept.length / TABLE_ENTRY_SIZE, vmStateSize: vmState?.size ?? 0, diskSize: header.size,
    })
    change.finish({ l1: { offset: change.put(active), bytes: active }, snapshots: [...known.snapshots, snapshot] })
    return snapshot
  })
}

/** Makes the content and size of the active disk equal to the snapshot's (QC-SNAP-07). The VM state stays in the snapshot only. */
export function applySnapshot(image: WholeImage, known: SnapshotTable, snapshot: Snapshot): void {
  rewrite(image, known, (change) => {
    const { header } = image
    const { geometry } = change
    const size = snapshot.diskSize ?? header.size
    const before = change.activeL1()
    const taken = readL1(change.file, snapshot.l1TableOffset, snapshot.l1Size)
    const needed = Math.ceil(size / geometry.l2Coverage)
    const l1 = new Uint8Array(Math.max(needed * TABLE_ENTRY_SIZE, before.length))
    l1.set(taken.subarray(0, vmStateIndex(size, geometry) * TABLE_ENTRY_SIZE))
    change.addTree(l1, 1)
    change.addTree(before, -1)
    change.leave(header.l1TableOffset, before.length)
    correctTree(change, l1, "none")
    change.finish({ size, l1: { offset: change.put(l1), bytes: l1 } })
  })
}

/** Deletes the snapshot, and frees the clusters that only it refers to (QC-SNAP-09). */
export function deleteSnapshot(image: WholeImage, known: SnapshotTable, snapshot: Snapshot): void {
  rewrite(image, known, (change) => {
    const { header } = image
    const tree = readL1(change.file, snapshot.l1TableOffset, snapshot.l1Size)
    change.addTree(tree, -1)
    change.leave(snapshot.l1TableOffset, tree.length)
    const l1 = change.activeL1()
    const snapshots = known.snapshots.filter((other) => other !== snapshot)
    if (!correctTree(change, l1, "by refcount")) return change.finish({ snapshots })
    change.leave(header.l1TableOffset, l1.length)
    change.finish({ l1: { offset: change.put(l1), bytes: l1 }, snapshots })
  })
}

/** Removes an old VM state above the disk from `l1`, the active table (QC-SNAP-10). Returns whether it had one. */
function dropVmState(change: Rewrite, l1: Uint8Array): boolean {
  const state = l1.subarray(vmStateIndex(change.geometry.size, change.geometry) * TABLE_ENTRY_SIZE)
  if (isZero(state)) return false
  change.addTree(state, -1)
  state.fill(0)
  return true
}
