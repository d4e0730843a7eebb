/**
 * LatencyHistogram: latencies of requests, in buckets that are 1/16 of a power of two wide. No value is off by more than 6.25 %, from an
 * eighth of a microsecond to four minutes. Histograms of several disks, or of several hours, can be merged.
 */

/** Buckets for each power of two. */
const SUB_BUCKETS = 16
const SUB_BITS = 4
/** Values are counted in eighths of a microsecond. */
const UNITS_PER_MS = 8000
/** The largest value with its own bucket, in units: 268 s. */
const MAX_UNITS = 2 ** 31 - 1
const BUCKETS = bucketOf(MAX_UNITS) + 1

/** A histogram as a JSON value: see `LatencyHistogram.toJSON`. */
export interface SavedLatencies {
  /** Milliseconds of all requests together. */
  readonly sum: number
  /** Milliseconds of the longest one. */
  readonly max: number
  /** Pairs of a bucket's index and its count, for buckets that are not empty. */
  readonly buckets: readonly (readonly [index: number, count: number])[]
}

/** Counts of latencies. Times are in milliseconds. */
export class LatencyHistogram {
  readonly #buckets = new Float64Array(BUCKETS)
  #count = 0
  #sum = 0
  #max = 0
  // Requests of one batch have one latency: its bucket is found once.
  #lastMs = -1
  #lastBucket = 0

  /** Number of requests. */
  get count(): number {
    return this.#count
  }

  /** Sum of all latencies in milliseconds. */
  get sum(): number {
    return this.#sum
  }

  /** The longest latency in milliseconds; 0 without requests. */
  get max(): number {
    return this.#max
  }

  /** Counts `requests` that took `ms` milliseconds each. Negative values of `ms` count as 0. */
  record(ms: number, requests = 1): void {
    if (ms !== this.#lastMs) this.#find(ms)
    this.#buckets[this.#lastBucket] = (this.#buckets[this.#lastBucket] ?? 0) + requests
    this.#count += requests
    this.#sum += requests * this.#lastMs
  }

  #find(ms: number): void {
    const sound = ms > 0 ? ms : 0
    this.#lastMs = sound
    this.#lastBucket = bucketOf(Math.min(sound * UNITS_PER_MS, MAX_UNITS))
    if (sound > this.#max) this.#max = sound
  }

  /** Adds what `other` has counted. */
  merge(other: LatencyHistogram): void {
    for (const [index, count] of other.#buckets.entries()) this.#buckets[index] = (this.#buckets[index] ?? 0) + count
    this.#count += other.#count
    this.#sum += other.#sum
    this.#max = Math.max(this.#max, other.#max)
  }

  /**
   * The latency in milliseconds that a `share` of the requests (0 to 1; 0.5 is the median) did not exceed: the upper end of its bucket, or
   * `max` if that is less. 0 without requests.
   */
  quantile(share: number): number {
    const wanted = Math.max(1, Math.ceil(Math.min(Math.max(share, 0), 1) * this.#count))
    let passed = 0
    for (const [index, count] of this.#buckets.entries()) {
      passed += count
      if (passed >= wanted) return Math.min(endOf(index) / UNITS_PER_MS, this.#max)
    }
    return 0
  }

  /**
   * The number of requests that took less than each power of two of microseconds, from 1 us to 2^27 us (134 s): the cumulative buckets of
   * Prometheus.
   */
  cumulative(): { readonly ms: number; readonly count: number }[] {
    const result: { ms: number; count: number }[] = []
    let passed = 0
    let index = 0
    for (let units = UNITS_PER_MS / 1000; units < MAX_UNITS; units *= 2) {
      for (const end = bucketOf(units); index < end; index++) passed += this.#buckets[index] ?? 0
      result.push({ ms: units / UNITS_PER_MS, count: passed })
    }
    return result
  }

  /** The histogram as a JSON value, for `LatencyHistogram.from`. */
  toJSON(): SavedLatencies {
    const buckets = [...this.#buckets.entries()].filter(([, count]) => count > 0)
    return { sum: this.#sum, max: this.#max, buckets }
  }

  /** Reads a result of `toJSON`. @throws RangeError for anything else */
  static from(saved: SavedLatencies): LatencyHistogram {
    const histogram = new LatencyHistogram()
    for (const [index, count] of saved.buckets) {
      if (!Number.isInteger(index) || index < 0 || index >= BUCKETS || !Number.isSafeInteger(count) || count < 0) {
        throw new RangeError(`LatencyHistogram.from: [${index}, ${count}] is not a bucket and its count`)
      }
      histogram.#buckets[index] = count
      histogram.#count += count
    }
    if (!(saved.sum >= 0) || !(saved.max >= 0)) throw new RangeError("LatencyHistogram.from: sum and max must be milliseconds from 0 up")
    histogram.#sum = saved.sum
    histogram.#max = saved.max
    return histogram
  }
}

/** The bucket of a value below 2^31, in units. */
function bucketOf(value: number): number {
  const units = value | 0
  const shift = Math.max(31 - SUB_BITS - Math.clz32(units), 0)
  return SUB_BUCKETS * shift + (units >>> shift)
}

/** The first value beyond bucket `index`, in units. */
function endOf(index: number): number {
  const shift = Math.max(Math.floor(index / SUB_BUCKETS) - 1, 0)
  return (index - SUB_BUCKETS * shift + 1) * 2 ** shift
}
