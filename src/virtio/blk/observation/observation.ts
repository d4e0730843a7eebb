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
  /** Without an observer, one batch in so many is timed, because reading the clock twice takes longer than a request. */
  readonly oneIn: number
  readonly failures: Failures
}

/** `oneIn` for sampled latencies: it slows the smallest request by less than 2 % (measured). */
const SAMPLED = 32

/** The observation for the options of a device, if any. */
export function observationOf(
  { observer, latency }: Pick<VirtioBlkOptions, "observer" | "latency">, parts: Pick<ObservationParts, "statistics" | "failures">,
): Observation | undefined {
  if (observer === undefined && parts.statistics.read.latency === undefined) return undefined
  return new Observation({ ...parts, observer, oneIn: latency === "sampled" ? SAMPLED : 1 })
}

export class Observation {
  /** Whether every request is observed. */
  readonly isOfAll: boolean
  readonly #parts: ObservationParts
  #now = 0
  #untilTimed = 1

  constructor(parts: ObservationParts) {
    this.isOfAll = parts.observer !== undefined || parts.oneIn === 1
    this.#parts = parts
  }

  /** Whether the next batch has to be observed. If not, call `passed` for it. */
  get isDue(): boolean {
    return this.isOfAll || this.#untilTimed <= 1
  }

  /** A batch has passed without being observed. */
  passed(): void {
    this.#untilTimed--
  }

  /**
   * The first `count` of `requests` have been taken. Reads the clock once for all of them. Returns whether to call `completed` for them.
   */
  arrived(requests: readonly BlkRequest[], count: number): boolean {
    if (count === 0) return false
    const { observer, oneIn } = this.#parts
    if (observer === undefined && --this.#untilTimed > 0) return false
    // Random, so that a guest's rhythm cannot decide which batches are timed.
    this.#untilTimed = oneIn === 1 ? 1 : Math.round(2 * oneIn * Math.random())
    stamp(requests, count, performance.now())
    return true
  }

  /** Reads the clock for the next calls of `completed`. */
  look(): void {
    this.#now = performance.now()
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

function stamp(requests: readonly BlkRequest[], count: number, arrived: number): void {
  for (let index = 0; index < count; index++) {
    const request = requests[index]
    if (request !== undefined) request.arrived = arrived
  }
}
