/** Statistics of a block device, since its creation. */
import { LatencyHistogram } from "./observation/latency-histogram.ts"
import { isZoneManagement } from "./zoned/requests.ts"
import { VIRTIO_BLK_T } from "./spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN, OUT, FLUSH, GET_ID, GET_LIFETIME, DISCARD, WRITE_ZEROES, SECURE_ERASE, ZONE_APPEND, ZONE_REPORT } = VIRTIO_BLK_T

/** Counts of one kind of request. */
export interface RequestCounts {
  requests: number
  /** Bytes of data of those that succeeded. */
  bytes: number
  /** Requests answered with IOERR or UNSUPP. */
  errors: number
  /** Their latencies, from the ring to completion, if the option `latency` is on. */
  readonly latency?: LatencyHistogram
}

/** Counts by kind of request. */
export interface BlkStatistics {
  readonly read: RequestCounts
  readonly write: RequestCounts
  readonly flush: RequestCounts
  readonly getId: RequestCounts
  readonly discard: RequestCounts
  readonly writeZeroes: RequestCounts
  readonly secureErase: RequestCounts
  readonly getLifetime: RequestCounts
  readonly zoneAppend: RequestCounts
  readonly zoneReport: RequestCounts
  /** Requests that open, close, finish or reset zones. */
  readonly zoneManagement: RequestCounts
  /** Requests of unknown types. */
  readonly unknown: RequestCounts
  /** Requests that shared a call of the backing with the one before. */
  merged: number
}

/** Kinds of requests, as the statistics name them. */
export type RequestKind = Exclude<keyof BlkStatistics, "merged">

/** `latency`: with a histogram for each kind. */
export function emptyStatistics({ latency = false }: { readonly latency?: boolean } = {}): BlkStatistics {
  const counts = (): RequestCounts => ({ requests: 0, bytes: 0, errors: 0, ...(latency && { latency: new LatencyHistogram() }) })
  return {
    read: counts(),
    write: counts(),
    flush: counts(),
    getId: counts(),
    discard: counts(),
    writeZeroes: counts(),
    secureErase: counts(),
    getLifetime: counts(),
    zoneAppend: counts(),
    zoneReport: counts(),
    zoneManagement: counts(),
    unknown: counts(),
    merged: 0,
  }
}

/** The counts of requests of `type`. */
export function countsOf(statistics: BlkStatistics, type: number): RequestCounts {
  switch (type) {
    case IN:
      return statistics.read
    case OUT:
      return statistics.write
    case FLUSH:
      return statistics.flush
    case GET_ID:
      return statistics.getId
    case DISCARD:
      return statistics.discard
    case WRITE_ZEROES:
      return statistics.writeZeroes
    case SECURE_ERASE:
      return statistics.secureErase
    case GET_LIFETIME:
      return statistics.getLifetime
    case ZONE_APPEND:
      return statistics.zoneAppend
    case ZONE_REPORT:
      return statistics.zoneReport
    default:
      return isZoneManagement(type) ? statistics.zoneManagement : statistics.unknown
  }
}
