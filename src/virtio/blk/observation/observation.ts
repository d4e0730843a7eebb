/** Observation: what a block device tells of each request at its completion: the embedder's `observer`, and latency histograms. */
import type { VirtioBlkOptions } from "../config.ts"
import type { Failures } from "../errors/failures.ts"
import type { BlkRequest } from "../request.ts"
import { type BlkStatistics, countsOf } from "../statistics.ts"
import type { ObservedRequest } from "./observed-request.ts"
import { placeOf } from "./place.ts"

/** What an `Observation` is made of. */
export interface ObservationParts {
  readonly statistics: BlkStatistics
  readonly observer: ((request: ObservedRequest) => void) | undefined
  /** Without an observer: one batch of requests in so many is timed. Two looks at the clock take longer than a request. */
  readonly oneIn: number
  readonly failures: Failures
}

/** Batches of which one is timed, where latencies are sampled: then it costs less than 2 % of the smallest request (measured). */
const SAMPLED = 32

/** The observation that the options of a device ask for, if they do. */
export function observationOf(
  { observer, latency }: Pick<VirtioBlkOptions, "observer" | "latency">, parts: Pick<ObservationParts, "statistics" | "failures">,
): Observation | undefined {
  if (observer === undefined && parts.statistics.read.latency === undefined) return undefined
  return new Observation({ ...parts, observer, oneIn: latency === "sampled" ? SAMPLED : 1 })
}

export class Observation {
  readonly #parts: ObservationParts
  #now = 0
  #untilTimed = 1
  /** Requests of the last batch that were given a time of arrival. */
  #stamped = 0

  constructor(parts: ObservationParts) {
    this.#parts = parts
  }

  /** Whether the next batch is to be told of. If not, it counts as one that has arrived. */
  isDue(): boolean {
    if (this.#parts.observer !== undefined || this.#untilTimed <= 1) return true
    this.#untilTimed--
    return false
  }

  /**
   * The first `count` of `requests` have been taken. Returns whether `completed` is to be told of them. One look at the clock is for all
   * of them.
   */
  arrived(requests: readonly BlkRequest[], count: number): boolean {
    if (count === 0) return false
    const { observer, oneIn } = this.#parts
    if (observer === undefined && --this.#untilTimed > 0) {
      if (this.#stamped > 0) stamp(requests, this.#stamped, 0)
      this.#stamped = 0
      return false
    }
    // At random, lest a guest's own rhythm decides what is timed.
    this.#untilTimed = oneIn === 1 ? 1 : Math.round(2 * oneIn * Math.random())
    stamp(requests, count, performance.now())
    this.#stamped = count
    return true
  }

  /** Looks at the clock, for the calls of `completed` that follow at once. */
  look(): void {
    this.#now = performance.now()
  }

  /**
   * A request has been completed with `status`. Whatever the observer does or throws, it is told of the next one. Those that were given no
   * time of arrival are none of its business.
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

function stamp(requests: readonly BlkRequest[], count: number, arrived: number): void {
  for (let index = 0; index < count; index++) {
    const request = requests[index]
    if (request !== undefined) request.arrived = arrived
  }
}
