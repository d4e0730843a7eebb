/** Changes of a file, as a write log keeps them and as they are applied to a piece of the file's content. */
import { BackingError } from "../../backing.ts"
import { joined } from "../../buffers.ts"

/**
 * One change of a file. Offsets, lengths and sizes are bytes. "zero" makes its range read as zeroes: `frees` says whether the space behind
 * it is given back.
 */
export type Change =
  | { readonly kind: "write"; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "zero"; readonly offset: number; readonly length: number; readonly frees: boolean }
  | { readonly kind: "truncate"; readonly size: number }

/** A sync, and who waits for it. */
export interface Barrier {
  readonly kind: "sync"
  readonly done: Promise<void>
  readonly settle: () => void
}

/** What has to be on stable storage elsewhere before anything that comes after. */
export interface Wait {
  readonly kind: "wait"
  readonly elsewhere: Promise<void>
}

/** Where another file comes first: resolves when what it has synced so far is on stable storage there; undefined when it is. */
export interface LogOrder {
  /** Before each sync of this file. */
  readonly beforeSync?: () => Promise<void> | undefined
  /** Before each change of this file. */
  readonly beforeChange?: () => Promise<void> | undefined
}

/** What a change takes up beside its data, roughly. */
const CHANGE_BYTES = 256

/** Bytes of memory that the change takes up, roughly. */
export function memoryOf(change: Change): number {
  return CHANGE_BYTES + (change.kind === "write" ? change.data.length : 0)
}

/** First byte whose content the change may alter. */
export function startOf(change: Change): number {
  return change.kind === "truncate" ? change.size : change.offset
}

/** Past the last byte whose content the change may alter. */
export function endOf(change: Change): number {
  if (change.kind === "truncate") return Number.POSITIVE_INFINITY
  return change.offset + (change.kind === "write" ? change.data.length : change.length)
}

/**
 * What the source is known to refuse must not reach the log: nothing could be written any more after it.
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

/** Does to `content`, the file's bytes from `offset` on, what the change does to the file. What is past the file's end is zero. */
export function applyChange(change: Change, content: Uint8Array, offset: number): void {
  const start = Math.max(startOf(change), offset)
  const end = Math.min(endOf(change), offset + content.length)
  if (start >= end) return
  if (change.kind === "write") content.set(change.data.subarray(start - change.offset, end - change.offset), start - offset)
  else content.fill(0, start - offset, end - offset)
}

/** The bytes of writes that continue each other. */
export function dataOf(changes: readonly Change[]): Uint8Array {
  const parts = changes.flatMap((change) => (change.kind === "write" ? [change.data] : []))
  const [only] = parts
  return parts.length === 1 && only !== undefined ? only : joined(parts)
}
