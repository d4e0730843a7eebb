/**
 * GuestData: the one place where the bytes of guest clusters meet a file. A plain image's `ClusterFile` is one as it is. Encryption and
 * external data files put their own in its place. Metadata and compressed clusters never pass here.
 */

/** Offsets and lengths are bytes. `host` is a place in the file, `guest` the place on the disk that the bytes belong to. */
export interface GuestData {
  /** Whether everything from `host` on, where it is not written, reads as zeroes: then zeroes may stay a hole. */
  isUnused(host: number): boolean
  /** Treats everything below `end` as written from now on. */
  claim(end: number): void
  /** Fills `buffer[start .. start + length)`. */
  readInto(buffer: Uint8Array, start: number, length: number, host: number, guest: number): void
  /** Fills `buffers`, `length` bytes in all. */
  readv(buffers: readonly Uint8Array[], host: number, length: number, guest: number): void
  /** Whether there is another thread for `readLater`. */
  readonly readsLater?: boolean
  /** Fills `buffer` on another thread, where there is one. */
  readLater?(buffer: Uint8Array, host: number, guest: number): Promise<void>
  /** Stores `buffer[start .. start + length)`. */
  writeFrom(buffer: Uint8Array, start: number, length: number, host: number, guest: number): void
  /** Stores `buffers`, `length` bytes in all. */
  writev(buffers: readonly Uint8Array[], host: number, length: number, guest: number): void
}
