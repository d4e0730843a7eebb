/** Calls a disk for the commands of clients: by whichever methods it has, and with promises only if it is `asynchronous`. */
import type { Allocation, VirtioBacking } from "../../backing.ts"
import { isStrayPromise } from "../../../options.ts"
import { joined } from "../../bytes/buffers.ts"

type Answer = void | Promise<void>

/** Fills `bytes[start .. start + length)` from `offset`. */
export function read(backing: VirtioBacking, bytes: Uint8Array, start: number, length: number, offset: number): Answer {
  if (backing.preadInto !== undefined) return checked(backing, backing.preadInto(bytes, start, length, offset), "preadInto")
  const view = new Uint8Array(bytes.buffer, bytes.byteOffset + start, length)
  if (backing.preadNow?.([view], offset) === true) return
  return checked(backing, backing.pread(view, offset), "pread")
}

/** Stores `buffers`, at least one, one after the other at `offset`. The disk borrows them until it has answered. */
export function write(backing: VirtioBacking, buffers: readonly Uint8Array[], offset: number): Answer {
  if (backing.pwriteNow?.(buffers, offset) === true) return
  const [first] = buffers
  if (first !== undefined && buffers.length === 1) return checked(backing, backing.pwrite(first, offset), "pwrite")
  if (backing.pwritev !== undefined) return checked(backing, backing.pwritev(buffers, offset), "pwritev")
  return checked(backing, backing.pwrite(joined(buffers), offset), "pwrite")
}

export function flush(backing: VirtioBacking): Answer {
  return checked(backing, backing.flush?.(), "flush")
}

export function discard(backing: VirtioBacking, offset: number, length: number): Answer {
  return checked(backing, backing.discard?.(offset, length), "discard")
}

export function writeZeroes(backing: VirtioBacking, offset: number, length: number, mayUnmap: boolean): Answer {
  return checked(backing, backing.writeZeroes?.(offset, length, mayUnmap), "writeZeroes")
}

/**
 * The promise that a method returned; undefined if it has done its work. Other results are ignored.
 * @throws TypeError for a promise of a backing that is not `asynchronous`: its work is not done yet
 */
function checked(backing: VirtioBacking, answer: Answer, name: string): Answer {
  if (answer === undefined || !isLater(answer)) return
  if (backing.asynchronous === true) return answer
  refuse(answer, name)
}

/** The allocation from `offset` on. A disk without `allocation` counts as all data. */
export function allocationOf(backing: VirtioBacking, offset: number, length: number): Allocation | Promise<Allocation> {
  if (backing.allocation === undefined) return { length, isAllocated: true, isZero: false }
  const answer = backing.allocation(offset, length)
  if (backing.asynchronous !== true && isLater(answer)) refuse(answer, "allocation")
  return answer
}

/** Whether `answer` is a promise, of whatever class. */
export function isLater<T>(answer: T | Promise<T>): answer is Promise<T> {
  return typeof answer === "object" && answer !== null && "then" in answer
}

function refuse(answer: Promise<unknown>, name: string): never {
  isStrayPromise(answer)
  throw new TypeError(`${name} of the backing returned a promise; a backing that answers later has asynchronous: true`)
}

/** Bytes that one `writeZeroes`, or one `discard`, handles within some milliseconds: stated by the backing, or 16 MiB. */
export function zeroesAtOnce(backing: VirtioBacking, mayUnmap: boolean): number {
  const zeroes = backing.zeroesAtOnce ?? DEFAULT_AT_ONCE
  return Math.max(mayUnmap ? (backing.unmapsAtOnce ?? zeroes) : zeroes, 512)
}

/** Bytes that one call reads or writes: a millisecond's work. */
const PIECE = 1 << 18
/** The same if each cluster may have to be decompressed, which takes 20 to 200 us: one cluster, within these bounds. */
const SLOW_PIECE = { least: 1 << 13, most: 1 << 16 } as const
/** Clusters up to this size are written in one call, because one that is written in two may be copied in between. */
const WHOLE_CLUSTER = 1 << 22

/** Bytes to read in one call, of `left` from `offset`. A piece ends on a multiple of its size. */
export function readPiece(backing: VirtioBacking, offset: number, left: number): number {
  const size = pieceSize(backing)
  return Math.min(left, size - (offset % size))
}

/** Bytes to write in one call, as `readPiece`; whole clusters where they are larger than a piece. */
export function writePiece(backing: VirtioBacking, offset: number, left: number): number {
  const size = Math.max(pieceSize(backing), Math.min(backing.discardGranularity ?? 512, WHOLE_CLUSTER))
  return Math.min(left, size - (offset % size))
}

function pieceSize({ slow, discardGranularity = 512 }: VirtioBacking): number {
  return slow === true ? Math.min(Math.max(discardGranularity, SLOW_PIECE.least), SLOW_PIECE.most) : PIECE
}

const DEFAULT_AT_ONCE = 16 << 20
/** Below this size a disk may write or search for zeroes, even if longer ranges are fast. */
const FAST_ZERO_MINIMUM = 4 << 20

/** Whether `writeZeroes` is faster than writing zeroes: one call handles more than could be written in its time. */
export function isFastZero(backing: VirtioBacking, length: number, mayUnmap: boolean): boolean {
  return length >= FAST_ZERO_MINIMUM && zeroesAtOnce(backing, mayUnmap) > DEFAULT_AT_ONCE
}
