/** The changes of a file that a write log keeps, and how to apply them to a part of the file's content. */
import { BackingError } from "../../backing.ts"
import { joined } from "../../bytes/buffers.ts"

/**
 * One change of a file. Offsets, lengths and sizes are bytes. "zero" makes its range read as zeroes; `frees` says whether to free the
 * range's space.
 */
export type Change =
  | { readonly kind: "write"; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "zero"; readonly offset: number; readonly length: number; readonly frees: boolean }
  | { readonly kind: "truncate"; readonly size: number }

/** A sync, and its waiters. */
export interface Barrier {
  readonly kind: "sync"
  readonly done: Promise<void>
  readonly settle: () => void
}

/** Delays all later entries until another file's data are on stable storage. */
export interface Wait {
  readonly kind: "wait"
  readonly elsewhere: Promise<void>
}

/**
 * Makes this file wait for another one. Each function resolves when everything that the other file has synced so far is on stable storage,
 * and returns undefined if it is.
 */
export interface LogOrder {
  /** Before each sync of this file. */
  readonly beforeSync?: () => Promise<void> | undefined
  /** Before each change of this file. */
  readonly beforeChange?: () => Promise<void> | undefined
}

/** Bytes of memory of a change besides its data, roughly. */
const CHANGE_BYTES = 256

/** Bytes of memory of the change, roughly. */
export function memoryOf(change: Change): number {
  return CHANGE_BYTES + (change.kind === "write" ? change.data.length : 0)
}

/** The first byte that the change may alter. */
export function startOf(change: Change): number {
  return change.kind === "truncate" ? change.size : change.offset
}

/** The end of the bytes that the change may alter. */
export function endOf(change: Change): number {
  if (change.kind === "truncate") return Number.POSITIVE_INFINITY
  return change.offset + (change.kind === "write" ? change.data.length : change.length)
}

/**
 * Refuses a change that the source is known to refuse. In the log its failure would end all writing.
 * @throws BackingError `no-space` for a change that makes the file larger than `largestSize`
 */
export function refuseBeyond(largestSize: number, change: Change, path: string): void {
  const end = change.kind === "truncate" ? change.size : endOf(change)
  if (end <= largestSize) return
  throw new BackingError("no-space", `the file would have ${end} bytes, and can have ${largestSize} at most`, { path })
}

export function overlaps(change: Change, start: number, end: number): boolean {
  return startOf(change) < end && endOf(change) > start
}

/** Applies the change to `content`, the file's bytes from `offset` on. Bytes past the file's end are zero. */
export function applyChange(change: Change, content: Uint8Array, offset: number): void {
  const start = Math.max(startOf(change), offset)
  const end = Math.min(endOf(change), offset + content.length)
  if (start >= end) return
  if (change.kind === "write") content.set(change.data.subarray(start - change.offset, end - change.offset), start - offset)
  else content.fill(0, start - offset, end - offset)
}

/** The bytes of adjacent writes. */
export function dataOf(changes: readonly Change[]): Uint8Array {
  const parts = changes.flatMap((change) => (change.kind === "write" ? [change.data] : []))
  const [only] = parts
  return parts.length === 1 && only !== undefined ? only : joined(parts)
}
