/** Observation: reports completed requests to the embedder's `observer`, and to latency histograms. */
import type { VirtioBlkOptions } from "../config.ts"
import type { Failures } from "../errors/failures.ts"
import type { BlkRequest } from "../request.ts"
import { type BlkStatistics, countsOf } from "../statistics.ts"
import type { ObservedRequest } from "./observed-request.ts"
import { placeOf } from "./place.ts"

/** The parts of an `Observation`. */
export interface ObservationParts {
  readonly statistics: BlkStatistics
  readonly observer: ((request: ObservedRequest) => void) | undefined
  /** One batch in so many is timed, because reading the clock twice takes longer than a request. 1 with an observer. */
  readonly oneIn: number
  readonly failures: Failures
}

/** `oneIn` for sampled latencies: it slows the smallest request by less than 2 % (measured). */
const SAMPLED = 64

// Node gets the global for each use by a function (15 ns, measured).
const clock = performance

/** The observation for the options of a device, if any. */
export function observationOf(
  { observer, latency }: Pick<VirtioBlkOptions, "observer" | "latency">, parts: Pick<ObservationParts, "statistics" | "failures">,
): Observation | undefined {
  if (observer === undefined && parts.statistics.read.latency === undefined) return undefined
  return new Observation({ ...parts, observer, oneIn: latency === "sampled" && observer === undefined ? SAMPLED : 1 })
}

export class Observation {
  /** Whether an observer is told of every request. If not, requests may be served as numbers: see `isDue`. */
  readonly hasObserver: boolean
  readonly #parts: ObservationParts
  #now = 0
  #untilTimed = 1

  constructor(parts: ObservationParts) {
    this.hasObserver = parts.observer !== undefined
    this.#parts = parts
  }

  /** Counts a batch, which has been taken. Returns whether to time it, by `arrival` and `succeeded`, or `completed`. */
  isDue(): boolean {
    return --this.#untilTimed <= 0
  }

  /** Reads the clock, once for all requests of a batch that is due. */
  arrival(): number {
    const { oneIn } = this.#parts
    // Random, so that a guest's rhythm cannot decide which batches are timed.
    this.#untilTimed = oneIn === 1 ? 1 : Math.round(2 * oneIn * Math.random())
    return clock.now()
  }

  /** `reads` and `writes` of a batch that arrived at the time `arrived` have succeeded. */
  succeeded(arrived: number, reads: number, writes: number): void {
    const { read, write } = this.#parts.statistics
    const ms = clock.now() - arrived
    if (reads > 0) read.latency?.record(ms, reads)
    if (writes > 0) write.latency?.record(ms, writes)
  }

  /** The first `count` of `requests` have been taken. Returns whether to call `completed` for them. */
  arrived(requests: readonly BlkRequest[], count: number): boolean {
    if (count === 0 || !this.isDue()) return false
    stamp(requests, count, this.arrival())
    return true
  }

  /** Reads the clock for the next calls of `completed`. */
  look(): void {
    this.#now = clock.now()
  }

  /**
   * A request has been completed with `status`. The observer gets every request with a time of arrival, even after it has thrown.
   */
  completed(queue: number, request: BlkRequest, status: number): void {
    if (request.arrived === 0) return
    const { statistics, observer, failures } = this.#parts
    countsOf(statistics, request.type).latency?.record(this.#now - request.arrived)
    if (observer === undefined) return
    try {
      observer({ queue, ...placeOf(request), status, arrived: request.arrived, completed: this.#now })
    } catch (bug) {
      failures.addBug(bug)
    }
  }
}

/** Sets the time of arrival of the first `count` of `requests`. */
export function stamp(requests: readonly BlkRequest[], count: number, arrived: number): void {
  for (let index = 0; index < count; index++) {
    const request = requests[index]
    if (request !== undefined) request.arrived = arrived
  }
}
