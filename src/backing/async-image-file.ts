/**
 * Files that answer later: `AsyncImageFile` is their interface. A synchronous `ImageFile` over one throws `NotLoaded` if its bytes are not
 * in memory yet; whoever catches that awaits the load and repeats the call. So image formats need no promises.
 */
import type { DiskVersion, VirtioBacking } from "./backing.ts"
import type { ImageLock, TakePiece } from "./image-file.ts"

/**
 * A file whose bytes come over a network, from a browser's storage or from another thread. Offsets and lengths are bytes; offsets are safe
 * integers >= 0. Any number of calls may be in progress at once; a read during a write of the same bytes may return old or
 * new ones. Every promise rejects with a `BackingError`.
 */
export interface AsyncImageFile {
  /** The file's name, for messages and for resolving names relative to it. */
  readonly path: string
  /** If true, there is no `write`, `truncate` and `sync`. */
  readonly readOnly: boolean
  /** Left out: "none". */
  readonly lock?: ImageLock
  /**
   * The maximum size of the file in bytes. It is read after `size` has resolved, and never changes after that. A full image still serves
   * every request that needs no more room. Left out: `write` and `truncate` reject what is too large.
   */
  readonly largestSize?: number
  /** Bytes that a read should ask for at least, if they are likely to be used. Default 64 KiB. */
  readonly preferredRead?: number
  /** Size of the file. The first call accesses the file, so it rejects if the file does not exist. */
  size(): Promise<number>
  /**
   * Fills `buffer` from `offset`. Resolves to the bytes read: fewer than `buffer.length` only where the file ends. `buffer` is borrowed
   * until the promise settles.
   */
  read(buffer: Uint8Array, offset: number): Promise<number>
  /** `read` into several non-empty buffers, one after the other. Left out: the caller reads one buffer and copies it. */
  readScattered?(buffers: readonly Uint8Array[], offset: number): Promise<number>
  /**
   * Offset of the next bytes of a running stream: a source that has been read in order for long may go on sending without further requests.
   * Undefined where no stream runs.
   */
  readonly flowsFrom?: number | undefined
  /**
   * Reads `length` bytes of that stream and passes them to `take` as they arrive. `offset` must equal `flowsFrom`. Resolves to the bytes
   * read: fewer than `length` only where the file ends. This saves a copy: the bytes go into the reader's buffer, not into pages first.
   */
  readFlow?(offset: number, length: number, take: TakePiece): Promise<number>
  /** Stores the whole `buffer`, and grows the file if necessary. `buffer` is borrowed until the promise settles. */
  write?(buffer: Uint8Array, offset: number): Promise<void>
  /** Sets the size: cuts off, or grows by a hole that reads as zeroes. */
  truncate?(size: number): Promise<void>
  /** Makes durable every write that had resolved before this call. */
  sync?(): Promise<void>
  /** Frees the space of the range, which is inside the file and reads as zeroes afterwards. Resolves to false if it cannot. */
  punchHole?(offset: number, length: number): Promise<boolean>
  /** Makes the range, which is inside the file, read as zeroes without sending them. Resolves to false if it cannot. */
  zeroRange?(offset: number, length: number): Promise<boolean>
  /**
   * The file as a raw disk, without our page cache: for files that are disks on the other side, such as NBD exports. After it has resolved,
   * the disk owns the file. Left out: the file is read in pages.
   */
  disk?(options: { readonly readOnly: boolean }): Promise<VirtioBacking>
  /** See `VirtioBacking.version`. Called after `size` has resolved. */
  version?(): DiskVersion | undefined
  /** Releases the file. A second call does nothing. Does not sync. */
  close(): Promise<void>
}

/**
 * Thrown by a synchronous call whose bytes are not in memory yet. It is not a `BackingError`: nothing failed, and no code may treat it as a
 * failure. The call has left nothing to undo; await `load()` and repeat it.
 */
export class NotLoaded {
  readonly #load: () => Promise<void>
  readonly #release: () => void

  /**
   * `load` resolves when the bytes are in memory, and rejects with a `BackingError`. Two calls of it may share one load. `release` unpins
   * what `load` pinned in memory, if anything.
   */
  constructor(load: () => Promise<void>, release: () => void = () => undefined) {
    this.#load = load
    this.#release = release
  }

  load(): Promise<void> {
    return this.#load()
  }

  /** Call this once when the repeated operation has ended: until then the loaded bytes stay in memory. */
  release(): void {
    this.#release()
  }
}
