/**
 * Hands out host clusters and takes them back. A cluster that the disk may still refer to is only free after the change that dropped its
 * last reference is on stable storage: until then it waits in the list of pending frees (QC-WO-04, QC-REF-10).
 */
import { BackingError } from "../../backing.ts"
import type { ClusterFile } from "./cluster-file.ts"
import type { DataClusters } from "./data-clusters.ts"
import type { Geometry } from "../format/geometry.ts"
import type { ClusterRun } from "./l2-view.ts"
import { Puncher } from "./puncher.ts"
import type { Refcounts } from "./refcounts.ts"

/** So many separate pending runs, or so many bytes and this share of the file, are reason enough to make them free for reuse. */
const PENDING_RUNS_LIMIT = 32768
const PENDING_BYTES_LIMIT = 8 * 1024 * 1024
const PENDING_SHARE = 1 / 8

/** What one `releasePending` does: so many clusters, and so many bytes of refcount blocks read, some 2 ms each. */
const MOST_RELEASED = 16384
const MOST_LOADED = 1024 * 1024

/** A search for a free cluster that meets full blocks only goes on after so many allocations: one write makes that many. */
const ALLOCATIONS_BETWEEN = 64

/** Stretches of free clusters that are tried before clusters in a row are taken where nothing is. */
const TRIES_IN_ROW = 64

export interface AllocatorOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly refcounts: Refcounts
  readonly prepare: () => void
}

export class Allocator implements DataClusters {
  readonly puncher: Puncher
  readonly #file: ClusterFile
  readonly #geometry: Geometry
  readonly #refcounts: Refcounts
  /** No cluster below is free. */
  #firstFree = 0
  /** Allocations until the search from `#firstFree` goes on. */
  #untilSearch = 0
  /** Where to allocate while the search from `#firstFree` is long: behind what the file holds. */
  #behind = 0
  /** First cluster and count of each run that loses one reference, in pairs. */
  #pending: number[] = []
  #pendingClusters = 0

  /** What is done before anything is allocated. It may fail, and is done again then. */
  readonly #prepare: () => void

  constructor(options: AllocatorOptions) {
    this.#prepare = options.prepare
    this.#file = options.file
    this.#geometry = options.geometry
    this.#refcounts = options.refcounts
    const { refcounts } = options
    this.puncher = new Puncher({ ...options, isFree: (cluster) => refcounts.isFree(cluster) })
  }

  /**
   * Takes 1 to `most` free clusters in a row, each with the refcount 1 in memory from now on.
   * @throws BackingError `no-space` when none is free, and the file cannot grow
   */
  allocate(most: number): ClusterRun {
    this.#prepare()
    if (this.#untilSearch > 0) {
      this.#untilSearch--
      const run = this.#allocateBehind(most)
      if (run.count > 0) return run
    }
    for (;;) {
      const run = this.#refcounts.take(this.#firstFree, most)
      this.#firstFree = run.first + run.count
      if (run.count > 0) return run
      if (run.first >= this.#refcounts.clusterLimit) throw this.#full()
      const behind = this.#allocateBehind(most)
      this.#untilSearch = ALLOCATIONS_BETWEEN
      if (behind.count > 0) return behind
    }
  }

  /**
   * Takes exactly `count` free clusters in a row, for a table.
   * @throws BackingError `no-space` when there is no such room, and the file cannot grow
   */
  allocateInRow(count: number): ClusterRun {
    if (count === 1) return this.allocate(1)
    this.#prepare()
    const end = Math.ceil(this.#file.usedEnd / this.#geometry.clusterSize)
    for (const start of [this.#firstFree, end]) {
      let from = start
      for (let tries = 0; tries < TRIES_IN_ROW; tries++) {
        const run = this.#refcounts.take(from, count)
        if (run.count === count) return run
        if (run.first >= this.#refcounts.clusterLimit) break
        if (run.count > 0) this.release(run.first, run.count)
        from = run.first + run.count
      }
    }
    const run = this.#refcounts.takeInRow(count)
    if (run.count === 0) throw this.#full()
    return run
  }

  /** Takes over what waits to be freed in an allocator of the same file, which nobody uses any more. */
  takeOver(other: Allocator): void {
    for (let at = 0; at < other.#pending.length; at += 2) this.releaseLater(other.#pending[at] ?? 0, other.#pending[at + 1] ?? 0)
  }

  #full(): BackingError {
    const message = `every cluster is in use, and the file cannot grow beyond ${this.#file.largestSize} bytes`
    return new BackingError("no-space", message, { path: this.#file.path })
  }

  /**
   * The search for a free cluster will take several calls. Meanwhile there is room behind the end of the file; the count is 0 where there
   * is none, and the search has to go on.
   */
  #allocateBehind(most: number): ClusterRun {
    const end = Math.ceil(this.#file.usedEnd / this.#geometry.clusterSize)
    let run = this.#refcounts.take(Math.max(this.#behind, end, this.#firstFree), most)
    if (run.count === 0) run = this.#refcounts.take(this.#refcounts.firstUndescribed(), most)
    this.#behind = run.first + run.count
    return run
  }

  /** Gives back clusters that nothing ever referred to, neither in memory nor on disk. */
  release(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster++) this.#refcounts.add(cluster, -1)
    if (first < this.#firstFree) this.#firstFree = first
    if (first < this.#behind) this.#behind = first
  }

  /** Drops one reference to each of these clusters once the change that removes it is on disk. */
  releaseLater(first: number, count: number): void {
    this.#pendingClusters += count
    const last = this.#pending.length - 2
    const lastFirst = this.#pending[last]
    const lastCount = this.#pending[last + 1]
    if (lastFirst !== undefined && lastCount !== undefined && lastFirst + lastCount === first) this.#pending[last + 1] = lastCount + count
    else this.#pending.push(first, count)
  }

  get hasPending(): boolean {
    return this.#pending.length > 0
  }

  /** So much waits to be freed that it is worth the syncs that it takes. */
  get isCrowded(): boolean {
    if (this.#pending.length >= PENDING_RUNS_LIMIT * 2) return true
    const bytes = this.#pendingClusters * this.#geometry.clusterSize
    return bytes >= PENDING_BYTES_LIMIT && bytes >= this.#file.usedEnd * PENDING_SHARE
  }

  /**
   * The changes that removed the references are on stable storage: lowers refcounts, as many as a few milliseconds allow. What is left, or
   * met an error, comes next time.
   */
  releasePending(): void {
    const loaded = this.#refcounts.loadedBytes
    for (let left = MOST_RELEASED; left > 0 && this.#pending.length > 0 && !this.#refcounts.isCrowded;) {
      if (this.#refcounts.loadedBytes - loaded >= MOST_LOADED) return
      left -= this.#releaseLast(left)
    }
  }

  /** Lowers the refcounts of the last clusters of the last run: at most `most`, and those that one block describes. Returns how many. */
  #releaseLast(most: number): number {
    const count = this.#pending.at(-1) ?? 0
    const first = this.#pending.at(-2) ?? 0
    const blockStart = Math.floor((first + count - 1) / this.#geometry.refcountBlockEntries) * this.#geometry.refcountBlockEntries
    const from = Math.max(first, blockStart, first + count - most)
    for (let cluster = first + count - 1; cluster >= from; cluster--) {
      if (this.#refcounts.add(cluster, -1) === 0 && cluster < this.#firstFree) this.#firstFree = cluster
      // Step by step: after an error, what was done must not be done again.
      this.#pending[this.#pending.length - 1] = cluster - first
      this.#pendingClusters--
    }
    this.puncher.add(from, first + count - from)
    if (from === first) this.#pending.length -= 2
    return first + count - from
  }
}
