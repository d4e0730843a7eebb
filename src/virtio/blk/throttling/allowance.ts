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

/** Small integers to V8. To ask the buckets after so many bytes costs nothing by comparison. */
const MOST = 2 ** 30

export class Allowance {
  /** Requests, and bytes, that may still be taken, of any kind. */
  #requests = 0
  #bytes = 0
  /** What they were when the buckets were last asked. */
  #allRequests = 0
  #allBytes = 0
  /** Those of what has been taken that were writes. */
  #writes = 0
  #writeBytes = 0

  /** Whether `requests` may be taken at once. */
  hasRoom(requests: number): boolean {
    return this.#requests >= requests
  }

  /** Takes what requests come to. Returns false, with nothing taken, when the buckets have to be asked. */
  take({ reads, readBytes, writes, writeBytes }: Tally): boolean {
    const requests = this.#requests - reads - writes
    const bytes = this.#bytes - readBytes - writeBytes
    if (requests < 0 || bytes < 0) return false
    this.#requests = requests
    this.#bytes = bytes
    if (writes === 0) return true
    this.#writes += writes
    this.#writeBytes += writeBytes
    return true
  }

  /** As much as none of `buckets`, which have just been asked, needs the clock for. A loop: arrays on the way cost more than a request. */
  refill(buckets: readonly NamedBucket[]): void {
    let requests = MOST
    let bytes = MOST
    for (const { name, bucket } of buckets) {
      if (isRequestLimit(name)) requests = Math.min(requests, bucket.untilClock)
      else bytes = Math.min(bytes, bucket.untilClock)
    }
    this.#requests = this.#allRequests = requests | 0
    this.#bytes = this.#allBytes = bytes | 0
  }

  /** Puts into `buckets` what has been taken, and lets nothing more pass. */
  settle(buckets: readonly NamedBucket[]): void {
    if (this.#allRequests === 0) return
    const [requests, bytes] = [this.#allRequests - this.#requests, this.#allBytes - this.#bytes]
    const [writes, writeBytes] = [this.#writes, this.#writeBytes]
    this.#requests = this.#allRequests = this.#bytes = this.#allBytes = this.#writes = this.#writeBytes = 0
    if (requests === 0) return
    const taken = { reads: requests - writes, readBytes: bytes - writeBytes, writes, writeBytes }
    for (const { name, bucket } of buckets) bucket.take(amountOf(name, taken))
  }
}
