/**
 * Stores changed metadata in an order in which a crash at any point leaves leaked clusters at worst: allocations first, references second,
 * frees last, with a sync between (QC-WO-01 to QC-WO-08).
 *
 *   1  increased refcounts, new refcount blocks, new L2 tables, a refcount table that has moved     nothing on disk refers to them yet
 *      sync, which includes the guest data written so far
 *   2  refcount table entries, or the header's pointer to the table                                 only if there are new blocks
 *      sync
 *   3  L2 entries of tables that are in use, L1 entries                                             all they refer to is counted and stored
 *      sync
 *   4  decreased refcounts                                                                          nothing on disk refers to them any more
 *
 * A part stays dirty until its sync has succeeded, so the next attempt after an error stores all of it again.
 */
import { BackingError } from "../../backing.ts"
import type { Allocator } from "./allocator.ts"
import { type ClusterFile, CorruptMetadata } from "./cluster-file.ts"
import type { DataClusters } from "./data-clusters.ts"
import type { Geometry } from "../format/geometry.ts"
import type { HeaderStore } from "./header-store.ts"
import type { Mapping } from "./mapping.ts"
import type { Refcounts } from "./refcounts.ts"
import type { TableCache } from "./table-cache.ts"

export interface MetadataParts {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly header: HeaderStore
  readonly mapping: Mapping
  readonly refcounts: Refcounts
  readonly allocator: Allocator
  /** The external data file, if there is one: its data is synced before any reference to it. */
  readonly dataFile: Pick<ClusterFile, "sync"> | undefined
  readonly dataClusters: DataClusters
  /** Undefined without `discardNoUnref`. */
  readonly keptPlaces: { punch(most: number): void } | undefined
  readonly l2Cache: TableCache
  readonly refcountCache: TableCache
}

/** Each hole in the host's file takes a process, about 2 ms. */
const PUNCHES_AT_ONCE = 2
const PUNCHES_AT_END = 16

export class MetadataWriter {
  readonly #parts: MetadataParts

  constructor(parts: MetadataParts) {
    this.#parts = parts
  }

  /** Call before a change: stores metadata if much is dirty, or many clusters are to be freed. @throws as `store`, and CorruptMetadata */
  makeRoom(): void {
    const { l2Cache, refcountCache, allocator } = this.#parts
    if (!l2Cache.isCrowded && !refcountCache.isCrowded && !allocator.isCrowded) return
    this.store()
    try {
      this.free()
    } catch (error) {
      // Clusters that could not be freed stay on the list; `finish` reports the error at the latest.
      if (!(error instanceof BackingError) || error instanceof CorruptMetadata) throw error
    }
  }

  /**
   * Makes everything written so far durable, data and metadata: phases 1 to 3.
   * @throws the first error; the call can be repeated
   */
  store(): void {
    this.storeAllocated()
    this.#storeReferences()
  }

  /**
   * Phase 4, after `store`, for a few milliseconds. No sync follows, because a crash would only leak clusters; so the blocks stay dirty.
   */
  free(): void {
    const { allocator, dataClusters, keptPlaces, refcountCache } = this.#parts
    allocator.releasePending()
    dataClusters.puncher.punch(PUNCHES_AT_ONCE)
    keptPlaces?.punch(PUNCHES_AT_ONCE)
    for (const block of refcountCache.dirtyTables) refcountCache.store(block)
  }

  /** All phases, completely: afterwards nothing is cached that the file does not have. */
  finish(): void {
    const { allocator, dataClusters, keptPlaces, refcountCache } = this.#parts
    this.store()
    while (allocator.hasPending) {
      allocator.releasePending()
      this.#storeAllocations()
    }
    if (refcountCache.dirtyTables.size > 0) this.#storeAllocations()
    dataClusters.puncher.punch(PUNCHES_AT_END)
    keptPlaces?.punch(PUNCHES_AT_END)
  }

  /** Phases 1 and 2: makes the present allocations durable. Nothing refers to the new clusters yet. @throws as `store` */
  storeAllocated(): void {
    this.#storeAllocations()
    this.#storeRefcountTable()
  }

  #storeAllocations(): void {
    const { file, dataFile, refcounts, refcountCache, l2Cache } = this.#parts
    const blocks = [...refcountCache.dirtyTables]
    const tables = [...l2Cache.dirtyTables].filter((table) => table.fresh)
    for (const block of blocks) refcountCache.store(block)
    for (const table of tables) l2Cache.store(table)
    refcounts.table.storeMoved()
    dataFile?.sync()
    file.sync()
    for (const block of blocks) refcountCache.clean(block)
    for (const table of tables) {
      l2Cache.clean(table)
      // From now on an L1 entry on disk may name it, even if the write of that entry fails.
      table.fresh = false
    }
    refcounts.table.placed()
  }

  #storeRefcountTable(): void {
    const { file, geometry, header, refcounts, allocator } = this.#parts
    const { table } = refcounts
    if (!table.isDirty && !table.isPointerStale) return
    table.store()
    if (table.isPointerStale) header.switchRefcountTable(table.place.offset, table.place.length / geometry.clusterSize)
    file.sync()
    for (const place of table.stored()) allocator.releaseLater(place.offset / geometry.clusterSize, place.length / geometry.clusterSize)
  }

  #storeReferences(): void {
    const { file, mapping, l2Cache } = this.#parts
    const tables = [...l2Cache.dirtyTables]
    if (tables.length === 0 && !mapping.l1.isDirty) return
    for (const table of tables) l2Cache.store(table)
    mapping.l1.store()
    file.sync()
    for (const table of tables) l2Cache.clean(table)
    mapping.l1.stored()
  }
}
