/**
 * Allowance: what a throttle that is far from its limits lets pass between two looks at its buckets, so that a batch of requests costs
 * two comparisons. What has been taken of it must reach the buckets (`settle`) before anybody looks at them.
 */
import type { Bucket } from "./bucket.ts"
import { amountOf, isRequestLimit, type LimitName, type Tally } from "./limits.ts"

export interface NamedBucket {
  readonly name: LimitName
  readonly bucket: Bucket
}

export class Allowance {
  /** Requests, and bytes, that may still be taken, of any kind. */
  #requests = 0
  #bytes = 0
  readonly #taken: Tally = { reads: 0, readBytes: 0, writes: 0, writeBytes: 0 }

  /** Whether `requests` may be taken at once. */
  hasRoom(requests: number): boolean {
    return this.#requests >= requests
  }

  /** Takes what requests come to. Returns false, with nothing taken, when the buckets have to be asked. */
  take(tally: Tally): boolean {
    const requests = tally.reads + tally.writes
    const bytes = tally.readBytes + tally.writeBytes
    if (requests > this.#requests || bytes > this.#bytes) return false
    this.#requests -= requests
    this.#bytes -= bytes
    const taken = this.#taken
    taken.reads += tally.reads
    taken.readBytes += tally.readBytes
    taken.writes += tally.writes
    taken.writeBytes += tally.writeBytes
    return true
  }

  /** As much as none of `buckets`, which have just been asked, needs the clock for. A loop: arrays on the way cost more than a request. */
  refill(buckets: readonly NamedBucket[]): void {
    this.#requests = Number.MAX_SAFE_INTEGER
    this.#bytes = Number.MAX_SAFE_INTEGER
    for (const { name, bucket } of buckets) {
      if (isRequestLimit(name)) this.#requests = Math.min(this.#requests, bucket.untilClock)
      else this.#bytes = Math.min(this.#bytes, bucket.untilClock)
    }
  }

  /** Puts into `buckets` what has been taken, and lets nothing more pass. */
  settle(buckets: readonly NamedBucket[]): void {
    this.#requests = 0
    this.#bytes = 0
    const taken = this.#taken
    if (taken.reads + taken.writes === 0) return
    for (const { name, bucket } of buckets) bucket.take(amountOf(name, taken))
    taken.reads = 0
    taken.readBytes = 0
    taken.writes = 0
    taken.writeBytes = 0
  }
}
