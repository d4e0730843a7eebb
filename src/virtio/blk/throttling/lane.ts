/** Lane: the reads that wait for a throttle, or the writes, and the buckets that they fill. */
import type { Bucket } from "./bucket.ts"
import type { LimitBuckets, LimitName } from "./limits.ts"

export type Direction = "read" | "write"

/** A request that waits for a throttle. */
export interface ThrottledRequest {
  readonly direction: Direction
  readonly bytes: number
  /** Queues take turns. */
  readonly queue: object
  /** Whether its disk serves requests. When that changes, call `poke`. */
  readonly mayGo: boolean
  /** It has waited long enough. */
  go(): void
}

export interface Lane {
  readonly requestBuckets: readonly Bucket[]
  readonly byteBuckets: readonly Bucket[]
  /** By queue, oldest request first. The first queue is next. */
  readonly waiting: Map<object, Set<ThrottledRequest>>
}

export function laneOf(direction: Direction, buckets: LimitBuckets, waiting: Map<object, Set<ThrottledRequest>>): Lane {
  const of = (...names: readonly LimitName[]): Bucket[] => names.flatMap((name) => buckets.get(name) ?? [])
  return { requestBuckets: of("requests", `${direction}Requests`), byteBuckets: of("bytes", `${direction}Bytes`), waiting }
}

/** A loop, because every kick calls it: making arrays takes longer than the request (measured). */
export function roomOf({ requestBuckets }: Lane): number {
  let least = Number.POSITIVE_INFINITY
  for (const { room } of requestBuckets) if (room < least) least = room
  return least
}

export function fillWith({ requestBuckets, byteBuckets }: Lane, bytes: number): void {
  for (const bucket of requestBuckets) bucket.take(1)
  for (const bucket of byteBuckets) bucket.take(bytes)
}
