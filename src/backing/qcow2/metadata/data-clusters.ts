/** Where guest data gets its clusters: from the image file's allocator, or each at its own place in an external data file. */
import type { ClusterRun } from "./l2-view.ts"
import { Puncher, type PuncherOptions } from "./puncher.ts"

export interface DataClusters {
  /** Gives the host's space behind freed clusters back. */
  readonly puncher: Puncher
  /** Takes 1 to `most` clusters in a row for the guest clusters from `guestCluster` on. @throws BackingError `no-space` */
  allocate(most: number, guestCluster: number): ClusterRun
  /** Gives back clusters that nothing ever referred to, neither in memory nor on disk. */
  release(first: number, count: number): void
  /** Drops one reference to each of these clusters once the change that removes it is on disk. */
  releaseLater(first: number, count: number): void
}

/** In an external data file each guest cluster has its own place, so nothing is counted (QC-DF-01, QC-DF-02). */
export class DataFileClusters implements DataClusters {
  readonly #puncher: Puncher
  /** Clusters in a row that were freed last: they come one by one, in order. */
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

  /** The same guest cluster may be in use again by the time the space behind it is given back: `isFree` looks. */
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
