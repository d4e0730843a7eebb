/** Empties an image: it holds nothing of its own afterwards, and shows what is behind it. */
import { L2_KIND } from "../format/entries.ts"
import type { Geometry } from "../format/geometry.ts"
import type { Qcow2Image } from "../image.ts"
import type { ChangedParts } from "../image-parts.ts"

/**
 * Drops what the L1 entries from `from` on name: one table's worth, some milliseconds. Returns the entry to go on with; all is done when
 * that is `entries`. A crash leaves each table dropped or not. @throws BackingError with nothing to undo
 */
export function emptyTables(image: Qcow2Image, from: number): { readonly next: number; readonly entries: number } {
  return image.change((parts) => {
    const { mapping, metadataWriter } = parts
    const entries = mapping.l1.entryCount
    let next = from
    while (next < entries && mapping.l1.hi(next) === 0 && mapping.l1.lo(next) === 0) next++
    if (next < entries) {
      metadataWriter.makeRoom()
      dropTable(image.geometry, parts, next++)
    }
    return { next, entries }
  })
}

function dropTable(
  { clusterSize, l2Entries }: Geometry,
  { mapping, allocator, dataClusters, metadata, l2Cache }: ChangedParts,
  l1Index: number,
): void {
  const table = mapping.table(l1Index)
  if (table === undefined) return
  // Refused before anything is changed.
  for (let index = 0; index < l2Entries; index++) {
    if (mapping.l2.kind(table, index, 0) === L2_KIND.CORRUPT) throw mapping.corruptEntry(table, index)
  }
  mapping.l1.prepareChange(metadata)
  mapping.l1.set(l1Index, 0, 0)
  metadata.removeL2Table(table.offset)
  for (let index = 0; index < l2Entries; index++) {
    const run = mapping.l2.references(table, index)
    if (run !== undefined) dataClusters.releaseLater(run.first, run.count)
  }
  allocator.releaseLater(table.offset / clusterSize, 1)
  l2Cache.drop(table.offset)
}
