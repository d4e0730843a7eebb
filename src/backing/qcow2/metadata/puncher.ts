/**
 * Puncher: gives the host's space behind freed clusters back, where the file can (QC-DZ-08). A hole costs the host a process, so only long
 * ones are made, and few at a time; the rest waits.
 */
import type { ClusterFile } from "./cluster-file.ts"
import type { Geometry } from "../format/geometry.ts"

/** Bytes from which a hole is worth what it costs. */
const PUNCH_MINIMUM = 1024 * 1024
/** Runs that wait. Beyond that the space stays with the file, which uses it again. */
const MOST_WAITING = 4096
/** Clusters that are looked at for one hole. */
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
  /** Clusters that make a hole worth while. */
  readonly #minimum: number = 0
  /** First cluster and end of each run that was freed, in pairs. */
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
    // The run before is over.
    if (lastFirst !== undefined && (waiting.at(-1) ?? 0) - lastFirst < this.#minimum) waiting.length -= 2
    if (waiting.length < MOST_WAITING * 2) waiting.push(first, first + count)
  }

  /** Punches the holes that are long enough, at most `most` of them. Clusters that are in use, still or again, are left alone. */
  punch(most: number): void {
    const { clusterSize } = this.#geometry
    const waiting = this.#waiting
    // To be asked what it can do costs the host two processes the first time: some 20 ms (measured).
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
      // The cluster at `free` is in use, unless it is where looking has stopped.
      const rest = free < stop ? free + 1 : free
      if (end - rest >= this.#minimum) waiting.push(rest, end)
      if (free - first < this.#minimum) continue
      this.#file.punch(first * clusterSize, (free - first) * clusterSize)
      punches++
    }
  }
}
