/** Empties an image: afterwards nothing is allocated, and it reads as its backing file. */
import { L2_KIND } from "../format/entries.ts"
import type { Geometry } from "../format/geometry.ts"
import type { Qcow2Image } from "../image.ts"
import type { ChangedParts } from "../image-parts.ts"

/**
 * Drops the next L2 table from L1 entry `from` on, in a few milliseconds. Returns the next entry, which is `entries` at the end. A crash
 * leaves each table either dropped or unchanged. @throws BackingError with nothing to undo
 */
export function emptyTables(image: Qcow2Image, from: number): { readonly next: number; readonly entries: number } {
  return image.change((parts) => {
    const { mapping, metadataWriter } = parts
    const entries = mapping.l1.entryCount
    let next = from + mapping.l1.emptyEntries(from, entries - from)
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
  // Refuses corrupt entries before any change.
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
