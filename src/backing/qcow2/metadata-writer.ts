/**
 * Brings changed metadata to disk so that a crash at any point leaves leaked clusters at worst: allocations first, references second, frees
 * last, with a sync between (QC-WO-01 to QC-WO-08).
 *
 *   1  increased refcounts, new refcount blocks, new L2 tables, a refcount table that has moved     nothing on disk refers to them yet
 *      sync: guest data written so far included
 *   2  refcount table entries, or the header's pointer to the table                                 only if there are new blocks
 *      sync
 *   3  L2 entries of tables that are in use, L1 entries                                             all they refer to is counted and stored
 *      sync
 *   4  decreased refcounts                                                                          nothing on disk refers to those clusters any more
 *
 * A part stays dirty until its sync has succeeded, so after an error the next attempt does all of it again.
 */
import type { Allocator } from "./allocator.ts"
import { setU64, viewOf } from "./format/bytes.ts"
import type { ClusterFile } from "./cluster-file.ts"
import type { Geometry } from "./format/geometry.ts"
import type { Mapping } from "./mapping.ts"
import type { Refcounts } from "./refcounts.ts"
import { HEADER_FIELD } from "./format/spec.ts"
import type { TableCache } from "./table-cache.ts"

export interface MetadataParts {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly refcounts: Refcounts
  readonly allocator: Allocator
  readonly l2Cache: TableCache
  readonly refcountCache: TableCache
}

export class MetadataWriter {
  readonly #parts: MetadataParts
  #busy = false

  constructor(parts: MetadataParts) {
    this.#parts = parts
  }

  /** So much is dirty, or waits to be freed, that it is time to store it. */
  get isCrowded(): boolean {
    const { l2Cache, refcountCache, allocator } = this.#parts
    return l2Cache.isCrowded || refcountCache.isCrowded || allocator.isCrowded
  }

  /** Storing is under way: an error found now must not start it again. */
  get isBusy(): boolean {
    return this.#busy
  }

  /** Puts everything written so far, data and metadata, on stable storage. Throws the first error; calling again tries again. */
  flush(): void {
    this.#busy = true
    try {
      this.#storeAllocations()
      this.#storeRefcountTable()
      this.#storeReferences()
      try {
        this.#storeFrees()
      } catch {
        // All that was asked for is stored. What could not be freed stays on the list, and shows at the latest in `finish`.
      }
    } finally {
      this.#busy = false
    }
  }

  /** `flush`, and the frees as well: afterwards the file is as if nothing had ever been cached. */
  finish(): void {
    this.flush()
    this.#busy = true
    try {
      this.#storeFrees()
      if (this.#parts.refcountCache.dirtyTables.size > 0) this.#storeAllocations()
    } finally {
      this.#busy = false
    }
  }

  #storeAllocations(): void {
    const { file, refcounts, refcountCache, l2Cache } = this.#parts
    const blocks = [...refcountCache.dirtyTables]
    const tables = [...l2Cache.dirtyTables].filter((table) => table.fresh)
    for (const block of blocks) refcountCache.store(block)
    for (const table of tables) l2Cache.store(table)
    if (refcounts.isUnplaced) file.write(refcounts.table.bytes, refcounts.table.offset)
    file.sync()
    for (const block of blocks) refcountCache.clean(block)
    for (const table of tables) {
      l2Cache.clean(table)
      // From now on an L1 entry may name it, even one whose write reports an error.
      table.fresh = false
    }
    if (refcounts.isUnplaced) refcounts.placed()
  }

  #storeRefcountTable(): void {
    const { file, geometry, refcounts, allocator } = this.#parts
    const change = refcounts.tableChange
    if (change === undefined && !refcounts.isPointerStale) return
    const { offset, bytes } = refcounts.table
    if (change !== undefined) file.write(bytes.subarray(change.from, change.to), offset + change.from)
    if (refcounts.isPointerStale) {
      // Offset and size stand side by side: one write within a sector switches both (QC-WO-06).
      const pointer = new Uint8Array(12)
      setU64(viewOf(pointer), 0, offset)
      viewOf(pointer).setUint32(8, bytes.length / geometry.clusterSize)
      file.write(pointer, HEADER_FIELD.REFCOUNT_TABLE_OFFSET)
    }
    file.sync()
    for (const place of refcounts.stored()) allocator.releaseLater(place.offset / geometry.clusterSize, place.length / geometry.clusterSize)
  }

  #storeReferences(): void {
    const { file, mapping, l2Cache } = this.#parts
    const tables = [...l2Cache.dirtyTables]
    const change = mapping.l1Change
    if (tables.length === 0 && change === undefined) return
    for (const table of tables) l2Cache.store(table)
    if (change !== undefined) file.write(mapping.l1.bytes.subarray(change.from, change.to), mapping.l1.offset + change.from)
    file.sync()
    for (const table of tables) l2Cache.clean(table)
    mapping.l1Stored()
  }

  /** Not synced: a crash before the lower refcounts arrive leaks clusters, no more. So the blocks stay dirty. */
  #storeFrees(): void {
    const { allocator, refcountCache } = this.#parts
    if (!allocator.hasPending) return
    const runs = allocator.pendingRunsToPunch()
    allocator.releasePending()
    for (const run of runs) allocator.punch(run)
    for (const block of refcountCache.dirtyTables) refcountCache.store(block)
  }
}
