/**
 * GuestData: reads and writes the bytes of guest clusters in a file. `ClusterFile` implements it, for the image file or an external data
 * file, and `EncryptedData` wraps that. Metadata and compressed clusters do not pass through it.
 */

/** Offsets and lengths are bytes. `host` is an offset in the file, `guest` the offset of the same bytes on the disk. */
export interface GuestData {
  /** Whether the file is unused from `host` on, so that unwritten bytes read as zeroes: then zeroes may stay a hole. */
  isUnused(host: number): boolean
  /** From now on treats all bytes below `end` as written. */
  claim(end: number): void
  /** Fills `buffer[start .. start + length)`. */
  readInto(buffer: Uint8Array, start: number, length: number, host: number, guest: number): void
  /** Fills `buffers`, `length` bytes in all. */
  readv(buffers: readonly Uint8Array[], host: number, length: number, guest: number): void
  /** Whether `readLater` has another thread to read on. */
  readonly readsLater?: boolean
  /** Fills `buffer` on another thread, if `readsLater`. */
  readLater?(buffer: Uint8Array, host: number, guest: number): Promise<void>
  /** Stores `buffer[start .. start + length)`. */
  writeFrom(buffer: Uint8Array, start: number, length: number, host: number, guest: number): void
  /** Stores `buffers`, `length` bytes in all. */
  writev(buffers: readonly Uint8Array[], host: number, length: number, guest: number): void
}
