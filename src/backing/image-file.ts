/**
 * ImageFile: the few file operations that disk images need. Formats use nothing else, so they also run over memory, a recorder or a
 * browser's files.
 */

import type { DiskVersion } from "./backing.ts"
import { checkMembers, findAsync, isStrayPromise, type Rules } from "../options.ts"

/**
 * What keeps other programs from opening an image while it is open. "qemu": locks that QEMU and openings of ours respect. "flock": a lock
 * of flock(2), which openings of ours respect, and QEMU does not. "exclusive": the browser opens the file only once. "none": nothing.
 */
export type ImageLock = "qemu" | "flock" | "exclusive" | "none"

/** Takes the next bytes of a range, in order. `piece` is valid until the call returns. */
export type TakePiece = (piece: Uint8Array) => void

/**
 * Positional, synchronous file access. Offsets and lengths are bytes; callers check that offsets are safe integers >= 0.
 * Errors are `BackingError`s. One owner, no cursor.
 */
export interface ImageFile {
  /** The file's name, for messages and for resolving names relative to it. */
  readonly path: string
  readonly readOnly: boolean
  /** Left out: "none". */
  readonly lock?: ImageLock
  /** The maximum size of the file in bytes, which never changes. Left out: as many as the host has room for. */
  readonly largestSize?: number
  /** Current size of the file. */
  size(): number
  /** Fills `buffer` from `offset`. Returns the bytes read: fewer than `buffer.length` only where the file ends. */
  read(buffer: Uint8Array, offset: number): number
  /** `read` into `buffer[start .. start + length)`, which the caller has checked to be inside `buffer`: no view object is needed. */
  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number
  /** `read` into several non-empty buffers, any number of them. Returns the bytes read in all. */
  readv(buffers: readonly Uint8Array[], offset: number): number
  /**
   * `read` on another thread, for reading ahead. Until the promise settles, nobody else uses `buffer` or closes the file. Left out by files
   * in memory.
   */
  readLater?(buffer: Uint8Array, offset: number): Promise<number>
  /**
   * Reads bytes that are about to arrive from a source of a file that answers later, and passes them to `take`. Resolves to the bytes read.
   * Undefined if the caller must use `read`.
   */
  readPast?(offset: number, length: number, take: TakePiece): Promise<number> | undefined
  /** Stores the whole `buffer`, and grows the file if necessary. */
  write(buffer: Uint8Array, offset: number): void
  /** `write` from `buffer[start .. start + length)`, as `readInto`. */
  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void
  /** `write` from several non-empty buffers, any number of them. */
  writev(buffers: readonly Uint8Array[], offset: number): void
  /** Sets the size: cuts off, or grows by a hole that reads as zeroes. */
  truncate(size: number): void
  /**
   * Frees the host's space for the range, which is inside the file and reads as zeroes afterwards; the size stays. Returns false if the
   * host cannot or fails: then a part of the range may be zeroes. Left out by files that never can.
   */
  punchHole?(offset: number, length: number): boolean
  /** Whether `punchHole` works on this file, as far as the host can tell. Default true if there is a `punchHole`. */
  readonly canPunchHole?: boolean
  /** Bytes that one `punchHole` handles within a few milliseconds: 0 if it cannot. May change. Default: any number. */
  readonly punchesAtOnce?: number
  /**
   * Makes the range, which is inside the file, read as zeroes without writing them, and keeps its space allocated. Returns false like
   * `punchHole`.
   */
  zeroRange?(offset: number, length: number): boolean
  /** Bytes that one `zeroRange` handles within a few milliseconds: 0 if it cannot. May change. Default: any number. */
  readonly zeroesAtOnce?: number
  /** See `VirtioBacking.version`. */
  version?(): DiskVersion | undefined
  /** Makes durable everything that was written so far. */
  sync(): void
  /** Releases the file. A second call does nothing. Does not sync. */
  close(): void
}

const IMAGE_FILE_RULES: Rules<ImageFile> = {
  path: "string", readOnly: "boolean", size: "function", read: "function", readInto: "function", readv: "function", write: "function",
  writeFrom: "function", writev: "function",
  truncate: "function", punchHole: "function?", sync: "function", close: "function", lock: "any?",
  largestSize: "number?",
  version: "function?", readLater: "any?", readPast: "any?", canPunchHole: "any?", punchesAtOnce: "any?", zeroRange: "function?",
  zeroesAtOnce: "any?",
}

const METHODS = Object.entries(IMAGE_FILE_RULES).flatMap(([name, rule]) => (rule === "function" || rule === "function?" ? [name] : []))
const NOTHING = new Uint8Array(0)

/**
 * Checks a file that was passed to the function named `who`. Refuses methods that return promises: taken for a number of bytes, a promise
 * makes any file look empty. To find out, it calls `size`, and `read` with an empty buffer.
 * @throws TypeError when it is not an `ImageFile`
 */
export function checkImageFile(who: string, file: ImageFile): void {
  checkMembers(who, "the file", file, IMAGE_FILE_RULES, "ImageFile")
  const late = findAsync(file, METHODS)
  if (late !== undefined) throw notSynchronous(who, late)
  if (isStrayPromise(file.size())) throw notSynchronous(who, "size")
  if (isStrayPromise(file.read(NOTHING, 0))) throw notSynchronous(who, "read")
}

function notSynchronous(who: string, name: string): TypeError {
  const rule = "the methods of an ImageFile are synchronous: see the interface ImageFile"
  return new TypeError(`${who}: ${name} of the file returns a promise; ${rule}`)
}
