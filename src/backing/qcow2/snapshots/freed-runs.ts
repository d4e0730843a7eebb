/** FreedRuns: the longer runs of clusters that a change frees, for holes in the file. Their number is bounded. */
import type { Geometry } from "../format/geometry.ts"
import type { ClusterRun } from "../metadata/l2-view.ts"

/** Minimum bytes of a run that is worth a hole in the file. */
const SHORTEST = 1024 * 1024
const MOST_RUNS = 4096

export class FreedRuns {
  readonly #shortest: number = 0
  readonly #runs: ClusterRun[] = []
  #first = 0
  #end = 0

  constructor({ clusterSize }: Geometry) {
    this.#shortest = Math.ceil(SHORTEST / clusterSize)
  }

  /** Adds a freed cluster. Calls mostly come in the order of the file. */
  add(cluster: number): void {
    if (cluster !== this.#end) {
      this.#keep()
      this.#first = cluster
    }
    this.#end = cluster + 1
  }

  /** All runs that are long enough, up to the maximum number. */
  take(): readonly ClusterRun[] {
    this.#keep()
    this.#first = this.#end
    return this.#runs
  }

  #keep(): void {
    const count = this.#end - this.#first
    if (count >= this.#shortest && this.#runs.length < MOST_RUNS) this.#runs.push({ first: this.#first, count })
  }
}
