/**
 * Moves tables from the end of the file to free clusters, so that the file can be cut. A change of the whole image has put them at the end,
 * because the old ones were still in use.
 */
import { viewOf } from "../../bytes/fields.ts"
import { encodeEntry } from "../format/entries.ts"
import { readSnapshotTable } from "../format/snapshot-table.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { Refcounts } from "../metadata/refcounts.ts"
import { rewrite, type Rewrite } from "../snapshots/rewrite.ts"
import type { WholeImage } from "../snapshots/whole-image.ts"

/** Moves the active tables and the refcount blocks that are at byte `limit` of the file or after it. */
export function compact(image: WholeImage, limit: number): void {
  const parts = image.writable()
  const blocks = blocksFrom(parts.refcounts, limit)
  const isHigh = blocks.length > 0 || parts.refcounts.table.place.offset >= limit || image.header.l1TableOffset >= limit
  if (!isHigh) return
  rewrite(image, readSnapshotTable(image.imageFile, image.header), (change) => {
    const l1 = change.activeL1()
    moveTables(change, l1, limit)
    // Index 0 in any case: copying any block also moves the refcount table.
    for (const index of [0, ...blocks]) change.refcounts.copyBlock(index)
    change.leave(image.header.l1TableOffset, l1.length)
    change.finish({ l1: { offset: change.put(l1), bytes: l1 } })
  })
}

function moveTables(change: Rewrite, l1: Uint8Array, limit: number): void {
  const { clusterSize } = change.geometry
  const view = viewOf(l1)
  const bytes = new Uint8Array(clusterSize)
  for (let index = 0; index < l1.length / TABLE_ENTRY_SIZE; index++) {
    const offset = change.tableOf(view, index)
    if (offset < limit || change.refcounts.get(offset / clusterSize) !== 1) continue
    change.file.read(bytes, offset)
    const { hi, lo } = encodeEntry({ offset: change.put(bytes), copied: true })
    view.setUint32(index * TABLE_ENTRY_SIZE, hi)
    view.setUint32(index * TABLE_ENTRY_SIZE + 4, lo)
    change.leave(offset, clusterSize)
  }
}

/** Indices of the refcount blocks that are at byte `offset` of the file or after it. */
function blocksFrom({ table }: Refcounts, offset: number): number[] {
  const found: number[] = []
  for (let index = 0; index < table.entryCount; index++) {
    if (table.hi(index) * 2 ** 32 + table.lo(index) >= offset) found.push(index)
  }
  return found
}
