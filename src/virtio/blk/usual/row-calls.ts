/** Calls the backing for a request in a row, if one call is enough. Requests that take several are left to the `Executor`. */
import type { VirtioBacking } from "../../../backing/backing.ts"
import { refusePromise } from "../answers.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import { KIND as KIND_AT, LENGTH as LENGTH_AT, OFFSET as OFFSET_AT, SECTOR as SECTOR_AT } from "./columns.ts"
import type { UsualRequests } from "./requests.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN, OUT } = VIRTIO_BLK_T
const BYTES = SECTOR_SIZE
const [KIND, SECTOR, OFFSET, LENGTH] = [KIND_AT, SECTOR_AT, OFFSET_AT, LENGTH_AT] as const

/** Makes the call for the first of `requests`. Returns false if it takes several calls. */
export function transferFirst(backing: VirtioBacking, requests: UsualRequests): boolean {
  const { rows, region } = requests
  const start = rows[OFFSET] ?? 0
  const length = rows[LENGTH] ?? 0
  const offset = (rows[SECTOR] ?? 0) * BYTES
  const kind = rows[KIND] ?? 0
  let answer: unknown
  if (kind === IN && backing.preadInto !== undefined) answer = backing.preadInto(region.bytes, start, length, offset)
  else if (kind === OUT && backing.pwriteFrom !== undefined) answer = backing.pwriteFrom(region.bytes, start, length, offset)
  else if (kind <= OUT) answer = transferView(backing, kind, region.viewAt(start, length), offset)
  else if (hasVectored(backing, kind)) answer = transferViews(backing, kind, requests.views(0), offset)
  else return false
  if (answer !== undefined) refusePromise(answer, methodOf(backing, kind))
  return true
}

export function transferView(backing: VirtioBacking, kind: number, view: Uint8Array, offset: number): unknown {
  return kind === IN ? backing.pread(view, offset) : backing.pwrite(view, offset)
}

/** Whether one call can handle data in several stretches. */
export function hasVectored({ preadv, pwritev }: VirtioBacking, kind: number): boolean {
  return ((kind & 1) === IN ? preadv : pwritev) !== undefined
}

export function transferViews(backing: VirtioBacking, kind: number, views: readonly Uint8Array[], offset: number): unknown {
  return (kind & 1) === IN ? backing.preadv?.(views, offset) : backing.pwritev?.(views, offset)
}

/** The name of the method that a row of this kind calls, for errors. */
export function methodOf(backing: VirtioBacking, kind: number): string {
  if (kind === IN) return backing.preadInto === undefined ? "pread" : "preadInto"
  if (kind === OUT) return backing.pwriteFrom === undefined ? "pwrite" : "pwriteFrom"
  return (kind & 1) === IN ? "preadv" : "pwritev"
}
