/** The limits of a `Throttle`: checks them, and makes their buckets. */
import { checkOptions, type Rules } from "../../../options.ts"
import { Bucket } from "./bucket.ts"

/** A rate that may be exceeded for a while. */
export interface RateLimit {
  /** Bytes, or requests, a second in the long run. */
  readonly perSecond: number
  /** Bytes, or requests, a second during a burst. Default: no bursts longer than a tenth of a second. */
  readonly burst?: number
  /** Maximum of seconds of a burst, after a pause. Default 1. */
  readonly burstSeconds?: number
}

/** Limits for a disk, or a group of disks, in a second. A number is a rate without bursts. Default: no limits. */
export interface ThrottleLimits {
  /** Reads and writes together. */
  readonly bytes?: number | RateLimit
  readonly requests?: number | RateLimit
  readonly readBytes?: number | RateLimit
  readonly readRequests?: number | RateLimit
  readonly writeBytes?: number | RateLimit
  readonly writeRequests?: number | RateLimit
}

const THROTTLE_LIMITS_RULES: Rules<ThrottleLimits> = {
  bytes: "any?", requests: "any?", readBytes: "any?", readRequests: "any?", writeBytes: "any?", writeRequests: "any?",
}
const RATE_LIMIT_RULES: Rules<RateLimit> = { perSecond: "number", burst: "number?", burstSeconds: "number?" }

export type LimitName = keyof ThrottleLimits

export const LIMIT_NAMES = Object.keys(THROTTLE_LIMITS_RULES) as readonly LimitName[]

/** Seconds of the rate that may be taken at once, because timers are only exact to a millisecond. */
const BASE_SECONDS = 0.1

/** The buckets of each limit that there is. */
export type LimitBuckets = ReadonlyMap<LimitName, readonly Bucket[]>

/** @throws TypeError and RangeError, which begin with `who`, for wrong limits */
export function checkLimits(who: string, limits: ThrottleLimits): void {
  checkOptions(who, limits, THROTTLE_LIMITS_RULES)
  for (const name of LIMIT_NAMES) {
    const limit = rateOf(limits[name])
    if (limit !== undefined) checkRate(`${who}: ${name}`, limit)
  }
}

/** Empty buckets for `limits` at `now`, in milliseconds. */
export function bucketsFor(limits: ThrottleLimits, now: number): LimitBuckets {
  const buckets = new Map<LimitName, Bucket[]>()
  for (const name of LIMIT_NAMES) {
    const limit = rateOf(limits[name])
    if (limit !== undefined) buckets.set(name, bucketsOf(limit, now))
  }
  return buckets
}

function rateOf(limit: number | RateLimit | undefined): RateLimit | undefined {
  return typeof limit === "number" ? { perSecond: limit } : limit
}

/** One bucket for the long run, and a small one that limits the rate of a burst. */
function bucketsOf({ perSecond, burst = perSecond, burstSeconds = 1 }: RateLimit, now: number): Bucket[] {
  const long = new Bucket(perSecond, burst * BASE_SECONDS + (burst - perSecond) * burstSeconds, now)
  return burst === perSecond ? [long] : [long, new Bucket(burst, burst * BASE_SECONDS, now)]
}

function checkRate(who: string, limit: RateLimit): void {
  checkOptions(who, limit, RATE_LIMIT_RULES)
  const { perSecond, burst = perSecond, burstSeconds = 1 } = limit
  if (!(perSecond > 0) || perSecond === Number.POSITIVE_INFINITY) {
    throw new RangeError(`${who}: perSecond must be more than 0, not ${perSecond}`)
  }
  if (!(burst >= perSecond) || burst === Number.POSITIVE_INFINITY) {
    throw new RangeError(`${who}: burst must be at least perSecond (${perSecond}), not ${burst}`)
  }
  if (!(burstSeconds > 0) || burstSeconds === Number.POSITIVE_INFINITY) {
    throw new RangeError(`${who}: burstSeconds must be more than 0, not ${burstSeconds}`)
  }
}

/** The totals of a batch of requests. */
export interface Tally {
  reads: number
  readBytes: number
  writes: number
  writeBytes: number
}

/** Whether the limit `name` is about requests, rather than bytes. */
export function isRequestLimit(name: LimitName): boolean {
  return name === "requests" || name === "readRequests" || name === "writeRequests"
}

/** The part of `tally` that the limit `name` counts. */
export function amountOf(name: LimitName, { reads, readBytes, writes, writeBytes }: Tally): number {
  switch (name) {
    case "requests":
      return reads + writes
    case "bytes":
      return readBytes + writeBytes
    case "readRequests":
      return reads
    case "readBytes":
      return readBytes
    case "writeRequests":
      return writes
    case "writeBytes":
      return writeBytes
  }
}
