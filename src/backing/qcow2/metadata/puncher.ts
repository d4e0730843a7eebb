/**
 * Puncher: frees the host's space of freed clusters, if the file can punch holes (QC-DZ-08). Each hole costs the host a process, so it
 * makes only long ones, and few at a time.
 */
import type { ClusterFile } from "./cluster-file.ts"
import type { Geometry } from "../format/geometry.ts"

/** Minimum bytes of a hole that is worth its cost. */
const PUNCH_MINIMUM = 1024 * 1024
/** Maximum runs that wait. Further runs keep their space, which the file reuses. */
const MOST_WAITING = 4096
/** Clusters to examine for one hole. */
const MOST_LOOKED_AT = 32768

export type PunchedFile = Pick<ClusterFile, "punchesAtOnce" | "punch">

export interface PuncherOptions {
  readonly file: PunchedFile
  readonly geometry: Geometry
  /** Whether nothing refers to the cluster. */
  readonly isFree: (cluster: number) => boolean
}

export class Puncher {
  readonly #file: PunchedFile
  readonly #geometry: Geometry
  readonly #isFree: (cluster: number) => boolean
  /** Minimum clusters of a hole. */
  readonly #minimum: number = 0
  /** First cluster and end of each freed run, in pairs. */
  readonly #waiting: number[] = []

  constructor(options: PuncherOptions) {
    this.#file = options.file
    this.#geometry = options.geometry
    this.#isFree = options.isFree
    this.#minimum = Math.ceil(PUNCH_MINIMUM / options.geometry.clusterSize)
  }

  /** Notes clusters that have lost a reference. A run comes in pieces, the last one first. */
  add(first: number, count: number): void {
    if (this.#file.punchesAtOnce === 0) return
    const waiting = this.#waiting
    const lastFirst = waiting.at(-2)
    if (lastFirst === first + count) {
      waiting[waiting.length - 2] = first
      return
    }
    // The previous run is complete: drop it if it is too short.
    if (lastFirst !== undefined && (waiting.at(-1) ?? 0) - lastFirst < this.#minimum) waiting.length -= 2
    if (waiting.length < MOST_WAITING * 2) waiting.push(first, first + count)
  }

  /** Punches at most `most` holes that are long enough. Skips clusters that are still, or again, in use. */
  punch(most: number): void {
    const { clusterSize } = this.#geometry
    const waiting = this.#waiting
    // Asking the host for the first time whether it can punch holes takes two processes, about 20 ms (measured).
    if (waiting.length === 0) return
    const longest = Math.min(MOST_LOOKED_AT, Math.floor(this.#file.punchesAtOnce / clusterSize))
    if (longest < this.#minimum) waiting.length = 0
    for (let punches = 0; punches < most && waiting.length > 0;) {
      const end = waiting.at(-1) ?? 0
      const first = waiting.at(-2) ?? 0
      const stop = Math.min(end, first + longest)
      let free = first
      while (free < stop && this.#isFree(free)) free++
      waiting.length -= 2
      // The cluster at `free` is in use, unless the loop ended at `stop`.
      const rest = free < stop ? free + 1 : free
      if (end - rest >= this.#minimum) waiting.push(rest, end)
      if (free - first < this.#minimum) continue
      this.#file.punch(first * clusterSize, (free - first) * clusterSize)
      punches++
    }
  }
}
