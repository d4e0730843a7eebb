/**
 * TableCache: a bounded cache of metadata clusters (L2 tables, refcount blocks), kept in the format of the disk, so that loading and
 * storing convert nothing.
 */
import { viewOf } from "../../bytes/fields.ts"
import type { ClusterFile } from "./cluster-file.ts"
import { DirtyRange } from "./dirty-range.ts"

/** One metadata cluster in memory. The fields that a look-up needs come first: they share a line of the processor's cache. */
export class CachedTable {
  /** Set by the mapping: the L1 entry of the last look-up, and whether that entry says that no snapshot shares the table. */
  l1Index = -1
  isOwn = false
  readonly view: DataView
  /** It is in the cache. A change to any other table would be lost. */
  resident = true
  /** It was used since the cache's clock hand passed. */
  used = true
  /** Host byte. */
  readonly offset: number = 0
  readonly bytes: Uint8Array
  /** Changed by `TableCache.touch` only. */
  readonly dirty = new DirtyRange()
  /** Nothing on disk refers to it yet, so it may be stored before the clusters that it refers to. */
  fresh = false

  constructor(offset: number, bytes: Uint8Array) {
    this.offset = offset
    this.bytes = bytes
    this.view = viewOf(bytes)
  }
}

export interface TableCacheOptions {
  readonly clusterSize: number
  /** Bytes of memory for tables. At least a few tables are always kept. */
  readonly capacity: number
}

/** Rough memory overhead of a table in bytes: it matters with clusters of 512 bytes. */
const OVERHEAD = 512
const FEWEST_TABLES = 8
/** The fixed cost of a read, as a number of bytes. */
const LOAD_OVERHEAD = 4096
/** A flush stores all dirty tables in one call, so their number is limited to about 2 ms of work. */
const MOST_DIRTY_TABLES = 256
const MOST_DIRTY_BYTES = 4 * 1024 * 1024

export class TableCache {
  readonly #file: ClusterFile
  readonly #clusterSize: number = 0
  readonly #most: number = 0
  readonly #byOffset = new Map<number, CachedTable>()
  readonly #ring: CachedTable[] = []
  readonly #dirty = new Set<CachedTable>()
  readonly #mostDirty: number = 0
  #dirtyBytes = 0
  #loadedBytes = 0
  #hand = 0

  constructor(file: ClusterFile, options: TableCacheOptions) {
    this.#file = file
    this.#clusterSize = options.clusterSize
    this.#most = Math.max(FEWEST_TABLES, Math.floor(options.capacity / (options.clusterSize + OVERHEAD)))
    // Dirty tables cannot be evicted, so they may fill at most half of the cache.
    this.#mostDirty = Math.min(MOST_DIRTY_TABLES, this.#most / 2)
  }

  /** The tables that differ from the disk. */
  get dirtyTables(): ReadonlySet<CachedTable> {
    return this.#dirty
  }

  /** So much is dirty that it should be stored before the next change. */
  get isCrowded(): boolean {
    return this.#dirty.size >= this.#mostDirty || this.#dirtyBytes >= MOST_DIRTY_BYTES
  }

  /** All bytes that were read from the file, plus `LOAD_OVERHEAD` for each read: a measure of time. */
  get loadedBytes(): number {
    return this.#loadedBytes
  }

  /** The table at `offset`, read from the file if it is not cached. @throws BackingError what reading throws */
  load(offset: number): CachedTable {
    const known = this.#byOffset.get(offset)
    if (known !== undefined) {
      known.used = true
      return known
    }
    const bytes = new Uint8Array(this.#clusterSize)
    this.#file.read(bytes, offset)
    this.#loadedBytes += bytes.length + LOAD_OVERHEAD
    return this.#insert(new CachedTable(offset, bytes))
  }

  /** Adds a new table at `offset`, which nothing on disk refers to. Keeps `bytes`, one cluster, as its content. All of it is dirty. */
  create(offset: number, bytes: Uint8Array): CachedTable {
    this.drop(offset)
    const table = this.#insert(new CachedTable(offset, bytes))
    table.fresh = true
    this.touch(table, 0, this.#clusterSize)
    return table
  }

  /** Notes that bytes `from` to `to` of `table` have changed. */
  touch(table: CachedTable, from: number, to: number): void {
    if (!table.resident) throw new Error(`the table at ${table.offset} was changed after the cache had dropped it`)
    const { dirty } = table
    if (dirty.isEmpty) this.#dirty.add(table)
    this.#dirtyBytes -= dirty.length
    dirty.add(from, to)
    this.#dirtyBytes += dirty.length
  }

  /** Writes the dirty part of `table`. It stays dirty until `clean`, because the write means nothing before a sync. */
  store(table: CachedTable): void {
    const { from, to } = table.dirty
    this.#file.write(table.bytes.subarray(from, to), table.offset + from)
  }

  /** Notes that the dirty part of `table` is durable. */
  clean(table: CachedTable): void {
    this.#dirtyBytes -= table.dirty.length
    table.dirty.clear()
    this.#dirty.delete(table)
  }

  /** Forgets the table at `offset`, dirty or not: its cluster is not a table any more. */
  drop(offset: number): void {
    const table = this.#byOffset.get(offset)
    if (table === undefined) return
    this.clean(table)
    table.resident = false
    this.#byOffset.delete(offset)
    const last = this.#ring.pop()
    const at = this.#ring.indexOf(table)
    if (last !== undefined && at >= 0) this.#ring[at] = last
  }

  #insert(table: CachedTable): CachedTable {
    const slot = this.#ring.length < this.#most ? -1 : this.#victim()
    if (slot < 0) this.#ring.push(table)
    else {
      const old = this.#ring[slot]
      if (old !== undefined) {
        old.resident = false
        this.#byOffset.delete(old.offset)
      }
      this.#ring[slot] = table
    }
    this.#byOffset.set(table.offset, table)
    return table
  }

  /** Clock algorithm: the next clean table that was not used since the hand passed; -1 if all are dirty. */
  #victim(): number {
    for (let step = 0; step < this.#ring.length * 2; step++) {
      const slot = this.#hand
      this.#hand = (this.#hand + 1) % this.#ring.length
      const table = this.#ring[slot]
      if (table === undefined || !table.dirty.isEmpty) continue
      if (!table.used) return slot
      table.used = false
    }
    return -1
  }
}
