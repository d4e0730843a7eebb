/**
 * Rewrite: a change of the whole image in new clusters. Tables, including refcounts, are copied and never changed in place. One write of
 * the header switches to the copies, so a crash leaves the old image or the new one, and leaked clusters at worst.
 */
import { roundUp } from "../../bytes/fields.ts"
import type { Geometry } from "../format/geometry.ts"
import { layOutSnapshots, type Snapshot, type SnapshotTable } from "../format/snapshot-table.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { GuestData } from "../guest-data.ts"
import type { HeaderTables } from "../metadata/header-store.ts"
import type { ClusterRun } from "../metadata/l2-view.ts"
import { ShadowRefcounts } from "./shadow-refcounts.ts"
import { tableOffsetOf, type TreeSource, visitTree } from "./trees.ts"
import type { WholeImage, WritableImage } from "./whole-image.ts"

/** The new values of the header. Left out: no change. */
export interface NewState {
  /** Bytes of the disk. */
  readonly size?: number
  /** The active L1 table and its place. */
  readonly l1?: { readonly offset: number; readonly bytes: Uint8Array }
  readonly snapshots?: readonly Snapshot[]
}

/** Allocations between two calls of `makeRoom`. */
const BETWEEN = 64

export class Rewrite implements TreeSource {
  readonly refcounts: ShadowRefcounts
  readonly geometry: Geometry
  readonly file: WholeImage["file"]
  readonly #image: WholeImage
  readonly #parts: WritableImage
  readonly #known: SnapshotTable
  readonly #left: ClusterRun[] = []
  #untilLook = BETWEEN

  /** The caller has stored all cached changes. `known` is the snapshot table on disk. */
  constructor(image: WholeImage, parts: WritableImage, known: SnapshotTable) {
    this.#image = image
    this.#parts = parts
    this.#known = known
    this.file = image.file
    this.geometry = parts.geometry
    this.refcounts = new ShadowRefcounts({ file: image.file, ...parts })
  }

  /** Writes the bytes of guest clusters. */
  get data(): GuestData {
    return this.#parts.reader.data
  }

  /** A copy of the active L1 table. */
  activeL1(): Uint8Array {
    return this.#parts.mapping.l1.bytes()
  }

  /** Adds `delta` to the refcounts of all clusters of the tree of an L1 table, for each reference. */
  addTree(l1: Uint8Array, delta: number): void {
    visitTree(this, l1, (first, count, times) => this.refcounts.add(first, count, delta * times))
  }

  /** Gives up a contiguous structure: its clusters lose one reference when the header no longer names it. */
  leave(offset: number, length: number): void {
    const { clusterSize } = this.geometry
    if (length > 0) this.#left.push({ first: offset / clusterSize, count: Math.ceil(length / clusterSize) })
  }

  /** Writes `bytes` to new contiguous clusters, and returns the host byte; 0 for no bytes. */
  put(bytes: Uint8Array): number {
    const { clusterSize } = this.geometry
    if (bytes.length === 0) return 0
    this.#look()
    const padded = new Uint8Array(roundUp(bytes.length, clusterSize))
    padded.set(bytes)
    const offset = this.refcounts.allocateTable(padded.length / clusterSize)
    this.file.write(padded, offset)
    return offset
  }

  /** Allocates 1 to `count` contiguous clusters for data. */
  allocate(count: number): ClusterRun {
    this.#look()
    return this.refcounts.allocate(count)
  }

  /** Host byte of the L2 table of entry `index`; 0 without one. */
  tableOf(l1: DataView, index: number): number {
    return tableOffsetOf(l1, index, this)
  }

  /** Writes the remaining tables, and switches to the new state. After an error everything is as before. */
  finish(state: NewState): void {
    const { metadataWriter, mapping } = this.#parts
    const { header } = this.#image
    const size = state.size ?? header.size
    const snapshots = state.snapshots === undefined ? undefined : this.#putSnapshots(state.snapshots, size)
    const { table, left } = this.refcounts.store()
    // Syncs all writes, and stores the refcounts of new clusters in the present blocks: if the change fails now, they leak.
    metadataWriter.store()
    const refcountTable = table ?? { offset: this.#parts.refcounts.table.place.offset, content: this.#parts.refcounts.table.bytes() }
    const l1 = state.l1 ?? { offset: header.l1TableOffset, bytes: mapping.l1.bytes() }
    const tables: HeaderTables = {
      size,
      l1TableOffset: l1.offset,
      l1Size: l1.bytes.length / TABLE_ENTRY_SIZE,
      refcountTableOffset: refcountTable.offset,
      refcountTableClusters: refcountTable.content.length / this.geometry.clusterSize,
      snapshotCount: snapshots?.table.snapshots.length ?? header.snapshotCount,
      snapshotsOffset: snapshots?.offset ?? header.snapshotsOffset,
    }
    const known = { l1: l1.bytes, refcountTable: refcountTable.content, snapshots: snapshots?.table ?? this.#known }
    this.#image.switchTo({ tables, known, left: [...this.#left, ...left], freed: this.refcounts.freed.take() })
  }

  /** Gives up the change, and frees its new clusters. */
  abandon(): void {
    for (const { first, count } of this.refcounts.allocated) this.#parts.allocator.releaseLater(first, count)
  }

  #putSnapshots(snapshots: readonly Snapshot[], diskSize: number): { readonly offset: number; readonly table: SnapshotTable } {
    const { header } = this.#image
    const { path } = this.file
    const place = { path, diskSize }
    // The length does not depend on the place.
    const { bytes } = layOutSnapshots(snapshots, { ...place, offset: 0 })
    this.leave(header.snapshotsOffset, this.#known.byteLength)
    const offset = this.put(bytes)
    return { offset, table: layOutSnapshots(snapshots, { ...place, offset }).table }
  }

  #look(): void {
    if (--this.#untilLook > 0) return
    this.#untilLook = BETWEEN
    this.#parts.metadataWriter.makeRoom()
  }
}

/** Runs `work`, which ends with `finish`. If it throws, the image does not change. */
export function rewrite<T>(image: WholeImage, known: SnapshotTable, work: (rewrite: Rewrite) => T): T {
  const parts = image.writable()
  // Called first, so that the copied refcounts include the trailer's clusters.
  parts.trailer.keep()
  parts.metadataWriter.finish()
  const change = new Rewrite(image, parts, known)
  let isDone = false
  try {
    const result = work(change)
    isDone = true
    return result
  } finally {
    if (!isDone) change.abandon()
  }
}
