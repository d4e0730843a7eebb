/** The kind of a request and its part of the disk, for people and programs. */
import { rangesLength } from "../ranges.ts"
import type { BlkRequest } from "../request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import { countsOf, emptyStatistics, type RequestKind } from "../statistics.ts"

const { IN, OUT } = VIRTIO_BLK_T

/** See `ObservedRequest`. */
export interface RequestPlace {
  readonly kind: RequestKind
  readonly type: number
  readonly sector: number
  readonly bytes: number
}

/** The kinds, found as the counts are. */
const NAMES = emptyStatistics()
const KINDS = new Map(Object.entries(NAMES).map(([kind, counts]) => [counts, kind as RequestKind]))

export function placeOf({ type, ranges, sector, dataLength }: BlkRequest): RequestPlace {
  const kind = KINDS.get(countsOf(NAMES, type)) ?? "unknown"
  const [range] = type === IN || type === OUT ? [] : ranges
  if (range === undefined) return { kind, type, sector, bytes: dataLength }
  return { kind, type, sector: range.offset / SECTOR_SIZE, bytes: rangesLength(ranges) }
}
