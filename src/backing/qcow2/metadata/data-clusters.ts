/** The clusters for guest data: from the image file's allocator, or at fixed places in an external data file. */
import type { ClusterRun } from "./l2-view.ts"
import { Puncher, type PuncherOptions } from "./puncher.ts"

export interface DataClusters {
  /** Frees the host's space of freed clusters. */
  readonly puncher: Puncher
  /** Takes 1 to `most` contiguous clusters for the guest clusters from `guestCluster` on. @throws BackingError `no-space` */
  allocate(most: number, guestCluster: number): ClusterRun
  /** Frees clusters that nothing ever referred to, neither in memory nor on disk. */
  release(first: number, count: number): void
  /** Drops one reference to each of these clusters once the change that removes it is on disk. */
  releaseLater(first: number, count: number): void
}

/** The clusters of an external data file. Each guest cluster has a fixed place, so there are no refcounts (QC-DF-01, QC-DF-02). */
export class DataFileClusters implements DataClusters {
  readonly #puncher: Puncher
  /** The last freed run: `#first` to `#end`. Callers free clusters one by one, in order. */
  #first = 0
  #end = 0

  constructor(options: PuncherOptions) {
    this.#puncher = new Puncher(options)
  }

  get puncher(): Puncher {
    this.#passOn()
    return this.#puncher
  }

  allocate(most: number, guestCluster: number): ClusterRun {
    return { first: guestCluster, count: most }
  }

  release(): void {}

  /** Notes the clusters for `puncher`, which asks `isFree` again: by then the guest may have written to them. */
  releaseLater(first: number, count: number): void {
    if (first !== this.#end) {
      this.#passOn()
      this.#first = first
    }
    this.#end = first + count
  }

  #passOn(): void {
    if (this.#end > this.#first) this.#puncher.add(this.#first, this.#end - this.#first)
    this.#first = this.#end
  }
}
