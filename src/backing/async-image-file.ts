/**
 * The seam for files that answer later: `AsyncImageFile`, what such a file does, and `NotLoaded`, the answer of a synchronous `ImageFile`
 * over one whose bytes are not here yet. No promise enters an image format: whoever catches it awaits it and makes the call again.
 */
import type { DiskVersion, VirtioBacking } from "./backing.ts"
import type { ImageLock } from "./image-file.ts"

/**
 * A file whose bytes come over a network, from a browser's storage or from another thread. Offsets and lengths are bytes; offsets are safe
 * integers >= 0. Any number of calls may be under way at once; what a read returns while a write of the same bytes is under way is not
 * defined. Every promise rejects with a `BackingError`.
 */
export interface AsyncImageFile {
  /** The file's name, for messages and for resolving names relative to it. */
  readonly path: string
  /** When true there is no `write`, `truncate` and `sync`. */
  readonly readOnly: boolean
  /** Left out: "none". */
  readonly lock?: ImageLock
  /**
   * Bytes that the file can have at most, where it cannot grow beyond that; asked for once `size` has resolved, and stays the same from
   * then on. An image that is full goes on then with what needs no more room. Left out: whatever `write` and `truncate` do not reject.
   */
  readonly largestSize?: number
  /** Bytes that one read should ask for at least, where they are likely to be of use. Default 64 KiB. */
  readonly preferredRead?: number
  /** Size of the file. The first call reaches for the file, so this is where one that is not there fails. */
  size(): Promise<number>
  /**
   * Fills `buffer` from `offset`. Resolves to the bytes read: fewer than `buffer.length` only where the file ends. `buffer` is borrowed
   * until the promise settles.
   */
  read(buffer: Uint8Array, offset: number): Promise<number>
  /** `read` into several non-empty buffers, one after the other. Left out: `read` fills one buffer, which is then copied. */
  readScattered?(buffers: readonly Uint8Array[], offset: number): Promise<number>
  /** Stores `buffer` whole, growing the file when it must. `buffer` is borrowed until the promise settles. */
  write?(buffer: Uint8Array, offset: number): Promise<void>
  /** Sets the size: cuts off, or grows by a hole that reads as zeroes. */
  truncate?(size: number): Promise<void>
  /** Every write that had resolved before this call is on stable storage when it resolves. */
  sync?(): Promise<void>
  /** Frees the space behind the range, which is inside the file and reads as zeroes afterwards. Resolves to false where it cannot. */
  punchHole?(offset: number, length: number): Promise<boolean>
  /** Makes the range, which is inside the file, read as zeroes without sending them. Resolves to false where it cannot. */
  zeroRange?(offset: number, length: number): Promise<boolean>
  /**
   * The file as a raw disk, without a cache of ours between: for files behind which there is a disk anyway. Once it has resolved the disk
   * owns the file. With `readOnly` the disk is read-only. Left out: the file is read in pages like any other.
   */
  disk?(options: { readonly readOnly: boolean }): Promise<VirtioBacking>
  /** As that of `VirtioBacking`. Called once `size` has resolved. */
  version?(): DiskVersion | undefined
  /** Releases the file. A second call does nothing. Does not sync. */
  close(): Promise<void>
}

/**
 * The bytes that a synchronous call needs are not here yet. Not a `BackingError`: nothing failed, and no code may treat it as a failure.
 * The call has left nothing to undo; await `load()` and make it again.
 */
export class NotLoaded {
  readonly #load: () => Promise<void>
  readonly #release: () => void

  /**
   * `load` resolves when the bytes are here, and rejects with a `BackingError`. Two calls of it may be one and the same load. `release` is
   * for what `load` keeps in memory: left out where that is nothing.
   */
  constructor(load: () => Promise<void>, release: () => void = () => undefined) {
    this.#load = load
    this.#release = release
  }

  load(): Promise<void> {
    return this.#load()
  }

  /** To be called once when the operation is through, repeated as often as it took: what was loaded stays here until then. */
  release(): void {
    this.#release()
  }
}
