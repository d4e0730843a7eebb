/**
 * Allowance: requests and bytes that a throttle far from its limits lets pass without asking its buckets, so that a batch of requests needs
 * only two comparisons. `settle` must charge the buckets for them before anybody reads the buckets.
 */
import type { Bucket } from "./bucket.ts"
import { amountOf, isRequestLimit, type LimitName, type Tally } from "./limits.ts"

export interface NamedBucket {
  readonly name: LimitName
  readonly bucket: Bucket
}

/** A small integer for V8, also in a browser. After so many bytes, asking the buckets takes no time by comparison. */
const MOST = 2 ** 29

export class Allowance {
  /** Requests and bytes of any kind that may still pass. A single request may take more bytes than there are. */
  #requests = 0
  #bytes = 0
  /** Their values at the last `refill`. */
  #allRequests = 0
  #allBytes = 0
  /** The part of them that writes have taken. */
  #writes = 0
  #writeBytes = 0

  /** Whether `requests` may be taken at once. */
  hasRoom(requests: number): boolean {
    return this.#requests >= requests
  }

  /** Whether a request of any size may be taken: one that finds room may overdraw a bucket. */
  get letsOnePass(): boolean {
    return this.#requests > 0 && this.#bytes > 0
  }

  /** Takes one request. Call it only if `letsOnePass`. */
  takeOne(isWrite: boolean, bytes: number): void {
    this.#requests--
    this.#bytes -= bytes
    if (!isWrite) return
    this.#writes++
    this.#writeBytes += bytes
  }

  /** Takes the requests of a tally. Returns false, and takes nothing, if the buckets have to be asked. */
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

  /**
   * Allows as much as fits into all `buckets` without the clock. Call it right after asking them. A loop: arrays would take longer than a
   * request.
   */
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

  /** Charges `buckets` for what has passed, and lets nothing more pass. */
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
