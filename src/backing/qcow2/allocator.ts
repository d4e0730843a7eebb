/**
 * Hands out host clusters and takes them back. A cluster that the disk may still refer to is only free after the change that dropped its last
 * reference is on stable storage: until then it waits in the list of pending frees (QC-WO-04, QC-REF-10).
 */
import type { ClusterFile } from "./cluster-file.ts"
import type { Geometry } from "./format/geometry.ts"
import type { Refcounts } from "./refcounts.ts"

/** So many separate pending runs, or so many bytes and this share of the file, are reason enough to make them free for reuse. */
const PENDING_RUNS_LIMIT = 32768
const PENDING_BYTES_LIMIT = 8 * 1024 * 1024
const PENDING_SHARE = 1 / 8

/** Freed runs from this size on are punched out of the host's file; each costs a process, so only so many at a time. */
const PUNCH_MINIMUM = 1024 * 1024
const PUNCHES_AT_ONCE = 16

export class Allocator {
  readonly #file: ClusterFile
  readonly #geometry: Geometry
  readonly #refcounts: Refcounts
  /** No cluster below is free. */
  #firstFree = 0
  /** First cluster and count of each run that loses one reference, in pairs. */
  #pending: number[] = []
  #pendingClusters = 0

  constructor(options: { readonly file: ClusterFile; readonly geometry: Geometry; readonly refcounts: Refcounts }) {
    this.#file = options.file
    this.#geometry = options.geometry
    this.#refcounts = options.refcounts
  }

  /** Takes 1 to `most` free clusters in a row, each with the refcount 1 in memory from now on. */
  allocate(most: number): { readonly first: number; readonly count: number } {
    const run = this.#refcounts.take(this.#firstFree, most)
    this.#firstFree = run.first + run.count
    return run
  }

  /** Gives back clusters that nothing ever referred to, neither in memory nor on disk. */
  release(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster++) this.#refcounts.add(cluster, -1)
    if (first < this.#firstFree) this.#firstFree = first
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

  /** The changes that removed the references are on stable storage: lowers the refcounts. What throws half-way is tried again next time. */
  releasePending(): void {
    while (this.#pending.length > 0) {
      const count = this.#pending.at(-1) ?? 0
      const first = this.#pending.at(-2) ?? 0
      for (let step = count - 1; step >= 0; step--) {
        if (this.#refcounts.add(first + step, -1) === 0 && first + step < this.#firstFree) this.#firstFree = first + step
        // Step by step: after an error, what was done must not be done again.
        this.#pending[this.#pending.length - 1] = step
        this.#pendingClusters--
      }
      this.#pending.length -= 2
    }
  }

  /** The pending runs that are worth punching, before `releasePending`. */
  pendingRunsToPunch(): { readonly first: number; readonly count: number }[] {
    const runs: { first: number; count: number }[] = []
    for (let at = 0; at < this.#pending.length && runs.length < PUNCHES_AT_ONCE; at += 2) {
      const first = this.#pending[at] ?? 0
      const count = this.#pending[at + 1] ?? 0
      if (count * this.#geometry.clusterSize >= PUNCH_MINIMUM) runs.push({ first, count })
    }
    return runs
  }

  /** Gives the host's space behind those of the run's clusters back that nothing refers to any more (QC-DZ-08). */
  punch(run: { readonly first: number; readonly count: number }): void {
    const { clusterSize } = this.#geometry
    let start = run.first
    for (let cluster = run.first; cluster <= run.first + run.count; cluster++) {
      if (cluster < run.first + run.count && this.#refcounts.get(cluster) === 0) continue
      if ((cluster - start) * clusterSize >= PUNCH_MINIMUM) this.#file.punch(start * clusterSize, (cluster - start) * clusterSize)
      start = cluster + 1
    }
  }
}
