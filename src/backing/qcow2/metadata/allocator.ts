/**
 * Hands out host clusters and takes them back. A cluster is only free after the change that dropped its last reference is durable. Until
 * then it is in the list of pending frees (QC-WO-04, QC-REF-10).
 */
import { BackingError } from "../../backing.ts"
import type { ClusterFile } from "./cluster-file.ts"
import type { DataClusters } from "./data-clusters.ts"
import type { Geometry } from "../format/geometry.ts"
import type { ClusterRun } from "./l2-view.ts"
import { Puncher } from "./puncher.ts"
import type { Refcounts } from "./refcounts.ts"

/** Pending runs are freed early if there are this many, or if they have this many bytes and this share of the file. */
const PENDING_RUNS_LIMIT = 32768
const PENDING_BYTES_LIMIT = 8 * 1024 * 1024
const PENDING_SHARE = 1 / 8

/** Limits of one `releasePending`: clusters, and bytes of refcount blocks to read. Each takes about 2 ms. */
const MOST_RELEASED = 16384
const MOST_LOADED = 1024 * 1024

/** A search that meets only full blocks pauses for this many allocations: one write can make that many. */
const ALLOCATIONS_BETWEEN = 64

/** Free runs to try for contiguous clusters, before they are taken after the range of the last refcount block. */
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
  /** No cluster below this one is free. */
  #firstFree = 0
  /** Allocations left until the search from `#firstFree` continues. */
  #untilSearch = 0
  /** Where to allocate while the search from `#firstFree` is paused: after the end of the file. */
  #behind = 0
  /** First cluster and count of each run that loses one reference, in pairs. */
  #pending: number[] = []
  #pendingClusters = 0

  /** Called before each allocation. If it fails, the next allocation calls it again. */
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
   * Takes 1 to `most` contiguous free clusters, and sets their refcounts in memory to 1.
   * @throws BackingError `no-space` if none is free, and the file cannot grow
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
   * Takes exactly `count` contiguous free clusters, for a table.
   * @throws BackingError `no-space` if there is no such run, and the file cannot grow
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

  /** Takes over the pending frees of an allocator of the same file that nobody uses any more. */
  takeOver(other: Allocator): void {
    for (let at = 0; at < other.#pending.length; at += 2) this.releaseLater(other.#pending[at] ?? 0, other.#pending[at + 1] ?? 0)
  }

  #full(): BackingError {
    const message = `every cluster is in use, and the file cannot grow beyond ${this.#file.largestSize} bytes`
    return new BackingError("no-space", message, { path: this.#file.path })
  }

  /**
   * Allocates after the end of the file while the search for a free cluster is paused. The count is 0 if the file has no room there: then
   * the search must continue.
   */
  #allocateBehind(most: number): ClusterRun {
    const end = Math.ceil(this.#file.usedEnd / this.#geometry.clusterSize)
    let run = this.#refcounts.take(Math.max(this.#behind, end, this.#firstFree), most)
    if (run.count === 0) run = this.#refcounts.take(this.#refcounts.firstUndescribed(), most)
    this.#behind = run.first + run.count
    return run
  }

  /** Frees clusters that nothing ever referred to, neither in memory nor on disk. */
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

  /** So much is pending that freeing it is worth the syncs. */
  get isCrowded(): boolean {
    if (this.#pending.length >= PENDING_RUNS_LIMIT * 2) return true
    const bytes = this.#pendingClusters * this.#geometry.clusterSize
    return bytes >= PENDING_BYTES_LIMIT && bytes >= this.#file.usedEnd * PENDING_SHARE
  }

  /**
   * Lowers the refcounts of pending clusters for a few milliseconds; the next call continues, also after an error. The changes that removed
   * the references must be durable.
   */
  releasePending(): void {
    const loaded = this.#refcounts.loadedBytes
    for (let left = MOST_RELEASED; left > 0 && this.#pending.length > 0 && !this.#refcounts.isCrowded;) {
      if (this.#refcounts.loadedBytes - loaded >= MOST_LOADED) return
      left -= this.#releaseLast(left)
    }
  }

  /** Lowers the refcounts of the last clusters of the last run: at most `most`, and all in one refcount block. Returns their number. */
  #releaseLast(most: number): number {
    const count = this.#pending.at(-1) ?? 0
    const first = this.#pending.at(-2) ?? 0
    const blockStart = Math.floor((first + count - 1) / this.#geometry.refcountBlockEntries) * this.#geometry.refcountBlockEntries
    const from = Math.max(first, blockStart, first + count - most)
    for (let cluster = first + count - 1; cluster >= from; cluster--) {
      if (this.#refcounts.add(cluster, -1) === 0 && cluster < this.#firstFree) this.#firstFree = cluster
      // Updated at each step, because after an error no step may be repeated.
      this.#pending[this.#pending.length - 1] = cluster - first
      this.#pendingClusters--
    }
    this.puncher.add(from, first + count - from)
    if (from === first) this.#pending.length -= 2
    return first + count - from
  }
}
