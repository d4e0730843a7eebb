/**
 * Replaces guest clusters of a snapshot: copies data of the backing image into the snapshot before the backing image changes, and removes
 * zero flags for version 2, which has none. Like every change of the whole image, it is one switch of the header.
 */
import { BackingError } from "../../backing.ts"
import { viewOf } from "../../bytes/fields.ts"
import { encodeEntry, L2_KIND, l2Kind } from "../format/entries.ts"
import type { Snapshot, SnapshotTable } from "../format/snapshot-table.ts"
import { EXTENDED_L2, L2_ENTRY, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { ALL_SUBCLUSTERS } from "../format/subclusters.ts"
import { correctTree } from "./active-tree.ts"
import { rewrite, type Rewrite } from "./rewrite.ts"
import { readL1, tableOffsetOf, type TreeSource, visitTable } from "./trees.ts"
import type { WholeImage } from "./whole-image.ts"

/** The new content of a guest cluster. "nothing": unallocated, so that the backing image shows. */
export interface Replacement {
  readonly cluster: number
  /** A whole cluster of bytes, or a name for it. */
  readonly content: Uint8Array | "zeroes" | "nothing"
}

/** Maximum clusters of one search. */
const MOST_ZEROES = 1024

/** Replaces these clusters of `snapshot`. Returns its new entry. */
export function replaceClusters(
  image: WholeImage, known: SnapshotTable, snapshot: Snapshot, replacements: readonly Replacement[],
): Snapshot {
  return rewrite(image, known, (change) => {
    const { l2Entries } = change.geometry
    const tables = new Map<number, Replacement[]>()
    for (const one of replacements) {
      const index = Math.floor(one.cluster / l2Entries)
      const others = tables.get(index)
      if (others === undefined) tables.set(index, [one])
      else others.push(one)
    }
    const taken = readL1(change.file, snapshot.l1TableOffset, snapshot.l1Size)
    refuseRepeated(change, taken)
    const l1 = new Uint8Array(Math.max(taken.length, (Math.max(0, ...tables.keys()) + 1) * TABLE_ENTRY_SIZE))
    l1.set(taken)
    const active = change.activeL1()
    let isCorrected = false
    for (const [index, inTable] of tables) {
      replaceInTable(change, l1, index, inTable)
      // The active disk may now be the only owner of the old table.
      const entry = active.subarray(index * TABLE_ENTRY_SIZE, (index + 1) * TABLE_ENTRY_SIZE)
      if (correctTree(change, entry, "by refcount")) isCorrected = true
    }
    change.leave(snapshot.l1TableOffset, taken.length)
    const changed = { ...snapshot, l1TableOffset: change.put(l1), l1Size: l1.length / TABLE_ENTRY_SIZE }
    const snapshots = known.snapshots.map((other) => (other === snapshot ? changed : other))
    if (isCorrected) change.leave(image.header.l1TableOffset, active.length)
    change.finish({ ...(isCorrected ? { l1: { offset: change.put(active), bytes: active } } : {}), snapshots })
    return changed
  })
}

/**
 * Refuses two L1 entries for one table, which occur only in hostile images. Each entry would get its own copy: an L1 table of 32 MiB could
 * fill 256 GiB of the host's disk.
 */
function refuseRepeated(change: Rewrite, l1: Uint8Array): void {
  const view = viewOf(l1)
  const offsets = Float64Array.from({ length: l1.length / TABLE_ENTRY_SIZE }, (_, index) => change.tableOf(view, index)).sort()
  const repeated = offsets.find((offset, at) => offset !== 0 && offset === offsets[at - 1])
  if (repeated === undefined) return
  const message = `two L1 entries of a snapshot refer to the L2 table at byte ${repeated}; delete the snapshot`
  throw new BackingError("corrupt", message, { path: change.file.path, offset: repeated })
}

/** Replaces a table of the tree by a copy with these replacements. */
function replaceInTable(change: Rewrite, l1: Uint8Array, index: number, replacements: readonly Replacement[]): void {
  const { geometry, refcounts, file } = change
  const { clusterSize, l2Entries, l2EntrySize } = geometry
  const offset = change.tableOf(viewOf(l1), index)
  const bytes = new Uint8Array(clusterSize)
  if (offset !== 0) {
    file.read(bytes, offset)
    refcounts.add(offset / clusterSize, 1, -1)
  }
  for (const replacement of replacements) {
    const at = (replacement.cluster % l2Entries) * l2EntrySize
    const entry = viewOf(bytes.subarray(at, at + l2EntrySize))
    visitTable(change, entry, offset + at, (first, count) => refcounts.add(first, count, -1))
    setEntry(change, entry, replacement)
  }
  const { hi, lo } = encodeEntry({ offset: change.put(bytes), copied: true })
  viewOf(l1).setUint32(index * TABLE_ENTRY_SIZE, hi)
  viewOf(l1).setUint32(index * TABLE_ENTRY_SIZE + 4, lo)
}

function setEntry(change: Rewrite, entry: DataView, { cluster, content }: Replacement): void {
  const { clusterSize, extendedL2, version } = change.geometry
  const isZero = content === "zeroes" && version >= 3
  let word = { hi: 0, lo: isZero && !extendedL2 ? L2_ENTRY.ZERO_LO : 0 }
  const hasData = !isZero && content !== "nothing"
  if (hasData) {
    const bytes = content === "zeroes" ? new Uint8Array(clusterSize) : content
    const offset = change.allocate(1).first * clusterSize
    change.data.writeFrom(bytes, 0, clusterSize, offset, cluster * clusterSize)
    word = encodeEntry({ offset, copied: true })
  }
  entry.setUint32(0, word.hi)
  entry.setUint32(4, word.lo)
  if (!extendedL2) return
  entry.setUint32(EXTENDED_L2.ZERO_BITS, isZero ? ALL_SUBCLUSTERS : 0)
  entry.setUint32(EXTENDED_L2.ALLOCATED_BITS, hasData ? ALL_SUBCLUSTERS : 0)
}

/** Guest clusters of a snapshot that have the zero flag, at most `MOST_ZEROES`. */
export function zeroClustersOf(source: TreeSource, snapshot: Snapshot): number[] {
  const { file, geometry } = source
  const found: number[] = []
  const l1 = viewOf(readL1(file, snapshot.l1TableOffset, snapshot.l1Size))
  const bytes = new Uint8Array(geometry.clusterSize)
  const table = viewOf(bytes)
  for (let index = 0; index < snapshot.l1Size && found.length < MOST_ZEROES; index++) {
    const offset = tableOffsetOf(l1, index, source)
    if (offset === 0) continue
    file.read(bytes, offset)
    for (let entry = 0; entry < geometry.l2Entries && found.length < MOST_ZEROES; entry++) {
      const kind = l2Kind(table.getUint32(entry * geometry.l2EntrySize), table.getUint32(entry * geometry.l2EntrySize + 4), geometry)
      if (kind === L2_KIND.ZERO || kind === L2_KIND.ZERO_ALLOCATED) found.push(index * geometry.l2Entries + entry)
    }
  }
  return found
}
