/**
 * Makes the new active tree. An L2 table whose COPIED flags agree with the new refcounts stays in place; others are copied. COPIED means
 * that the refcount is one, but only in the active tree: in tables of snapshots it has no meaning (QC-SNAP-08).
 */
import { isZero } from "../../bytes/buffers.ts"
import { viewOf } from "../../bytes/fields.ts"
import { encodeEntry, hostOffset, isCopied, L2_KIND, l2Kind } from "../format/entries.ts"
import { L2_ENTRY, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { Rewrite } from "./rewrite.ts"
import { tableOffsets, visitTable } from "./trees.ts"

/** "none": all clusters are shared from now on. "by refcount": COPIED is set if the new refcount is one. */
export type CopiedFlags = "none" | "by refcount"

/**
 * Corrects the COPIED flags of the tree of `l1`. The new refcounts already count all references of the tree. Changes `l1`, and returns
 * whether it did.
 */
export function correctTree(rewrite: Rewrite, l1: Uint8Array, flags: CopiedFlags): boolean {
  const { geometry, refcounts } = rewrite
  const view = viewOf(l1)
  const places = new TablePlaces(rewrite, view, flags)
  const entries = l1.length / TABLE_ENTRY_SIZE
  const found = new Float64Array(entries)
  for (let index = 0; index < entries; index++) found[index] = places.of(rewrite.tableOf(view, index))
  let isChanged = false
  // A second loop, because only now all refcounts are final.
  for (let index = 0; index < entries; index++) {
    const place = found[index] ?? 0
    if (place === 0) continue
    const { hi, lo } = encodeEntry({ offset: place, copied: refcounts.get(place / geometry.clusterSize) === 1 })
    if (view.getUint32(index * TABLE_ENTRY_SIZE) === hi && view.getUint32(index * TABLE_ENTRY_SIZE + 4) === lo) continue
    view.setUint32(index * TABLE_ENTRY_SIZE, hi)
    view.setUint32(index * TABLE_ENTRY_SIZE + 4, lo)
    isChanged = true
  }
  return isChanged
}

/**
 * The new place of each table of a tree: its present one, or that of its copy. A table that several entries name, which occurs only in
 * hostile images, is copied once: otherwise an L1 table of 32 MiB could fill 256 GiB of the host's disk.
 */
class TablePlaces {
  readonly #rewrite: Rewrite
  readonly #flags: CopiedFlags
  readonly #bytes: Uint8Array
  /** New places of tables that are named more than once, by their present offsets. 0: not known yet. */
  readonly #repeated = new Map<number, number>()

  constructor(rewrite: Rewrite, l1: DataView, flags: CopiedFlags) {
    this.#rewrite = rewrite
    this.#flags = flags
    this.#bytes = new Uint8Array(rewrite.geometry.clusterSize)
    const offsets = tableOffsets(l1, rewrite)
    for (let at = 1; at < offsets.length; at++) {
      const offset = offsets[at] ?? 0
      if (offset === offsets[at - 1]) this.#repeated.set(offset, 0)
    }
  }

  /** The new place for an entry that names the table at `offset`; 0 for none. */
  of(offset: number): number {
    if (offset === 0) return 0
    const known = this.#repeated.get(offset)
    if (known === undefined) return this.#place(offset)
    if (known !== 0) return this.#sameAgain(offset, known)
    const place = this.#place(offset)
    this.#repeated.set(offset, place)
    return place
  }

  #sameAgain(offset: number, place: number): number {
    const { refcounts, geometry } = this.#rewrite
    if (place === offset) return place
    refcounts.add(place / geometry.clusterSize, 1, 1)
    refcounts.add(offset / geometry.clusterSize, 1, -1)
    return place
  }

  #place(offset: number): number {
    const { file, refcounts, geometry } = this.#rewrite
    const bytes = this.#bytes
    file.read(bytes, offset)
    const isChanged = this.#flags === "none" ? clearCopied(bytes, geometry.l2EntrySize) : correctCopied(this.#rewrite, viewOf(bytes))
    if (!isChanged) return offset
    const place = this.#rewrite.put(bytes)
    refcounts.add(offset / geometry.clusterSize, 1, -1)
    return place
  }
}

/** Clears COPIED of all entries; returns whether one had it. A loop over single bytes is fast: a disk of 1 TiB has 16 million entries. */
function clearCopied(bytes: Uint8Array, entrySize: number): boolean {
  const copied = L2_ENTRY.COPIED_HI >>> 24
  let found = 0
  for (let at = 0; at < bytes.length; at += entrySize) {
    const byte = bytes[at] ?? 0
    found |= byte & copied
    bytes[at] = byte & ~copied
  }
  return found !== 0
}

/**
 * Removes from the tree all entries from guest cluster `first` on, including zero clusters (QC-DZ-09). Changes `l1`, and returns whether it
 * did. Copies the table in which the cut is, because a snapshot may share it.
 */
export function cutTree(rewrite: Rewrite, l1: Uint8Array, first: number): boolean {
  const { l2Entries } = rewrite.geometry
  const whole = Math.ceil(first / l2Entries)
  const beyond = l1.subarray(whole * TABLE_ENTRY_SIZE)
  const hasWhole = !isZero(beyond)
  if (hasWhole) rewrite.addTree(beyond, -1)
  beyond.fill(0)
  const within = first - (whole - 1) * l2Entries
  const isCut = within < l2Entries && whole * TABLE_ENTRY_SIZE <= l1.length && cutTable(rewrite, l1, whole - 1, within)
  return hasWhole || isCut
}

function cutTable(rewrite: Rewrite, l1: Uint8Array, index: number, within: number): boolean {
  const { geometry, file, refcounts } = rewrite
  const offset = rewrite.tableOf(viewOf(l1), index)
  if (offset === 0) return false
  const bytes = new Uint8Array(geometry.clusterSize)
  file.read(bytes, offset)
  const from = within * geometry.l2EntrySize
  const rest = bytes.subarray(from)
  if (isZero(rest)) return false
  visitTable(rewrite, viewOf(rest), offset + from, (first, count) => refcounts.add(first, count, -1))
  rest.fill(0)
  refcounts.add(offset / geometry.clusterSize, 1, -1)
  correctCopied(rewrite, viewOf(bytes))
  const { hi, lo } = encodeEntry({ offset: rewrite.put(bytes), copied: true })
  viewOf(l1).setUint32(index * TABLE_ENTRY_SIZE, hi)
  viewOf(l1).setUint32(index * TABLE_ENTRY_SIZE + 4, lo)
  return true
}

/** Sets COPIED in entries whose cluster has the refcount one, and clears it in others. Returns whether an entry has changed. */
function correctCopied({ geometry, refcounts }: Rewrite, table: DataView): boolean {
  let isChanged = false
  for (let at = 0; at < table.byteLength; at += geometry.l2EntrySize) {
    const hi = table.getUint32(at)
    const lo = table.getUint32(at + 4)
    if (hi === 0 && lo === 0) continue
    const kind = l2Kind(hi, lo, geometry)
    const hasCluster = kind === L2_KIND.NORMAL || kind === L2_KIND.ZERO_ALLOCATED
    const copied = hasCluster && (geometry.hasDataFile || refcounts.get(hostOffset(hi, lo) / geometry.clusterSize) === 1)
    if (copied === isCopied(hi) || kind === L2_KIND.CORRUPT) continue
    table.setUint32(at, copied ? (hi | L2_ENTRY.COPIED_HI) >>> 0 : (hi & ~L2_ENTRY.COPIED_HI) >>> 0)
    isChanged = true
  }
  return isChanged
}
