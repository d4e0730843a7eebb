/** The interfaces under an `AwaitedDisk`: a disk that answers at once or throws `NotLoaded`, and its files. */
import type { Allocation, VirtioBacking } from "../backing.ts"
import type { ImageFile, ImageLock, TakePiece } from "../image-file.ts"
import type { AddBitmapOptions, BitmapActions, BitmapInfo, Bitmaps, ChangedRange } from "../qcow2/bitmaps/bitmaps.ts"
import type { MapExtent } from "../qcow2/map-extents.ts"
import type { CreateSnapshotOptions, SnapshotActions, SnapshotInfo, Snapshots, SnapshotView } from "../qcow2/snapshots/snapshots.ts"

/** A file of the disk that completes its changes later: a `PagedFile`. */
export interface LateFile {
  stable(): Promise<void> | undefined
  readonly hasRoom: boolean
  room(): Promise<void>
  /** Called after the disk has been closed, whether or not that has closed the file. */
  close(): void
  released(): Promise<void>
}

/** A disk that answers at once or throws `NotLoaded`: a raw or a qcow2 image over late files. */
export interface LoadingDisk extends VirtioBacking {
  readonly path?: string
  readonly lock?: ImageLock
  /** A read that bypasses the pages. Undefined if the caller must use `pread`. */
  preadPast?(offset: number, length: number, take: TakePiece): Promise<void> | undefined
  map?(offset: number, length: number): Iterable<MapExtent>
  allocation?(offset: number, length: number): Allocation
  resize?(size: number, options?: { readonly shrink?: boolean }): void
  readonly snapshots?: Snapshots<SnapshotView>
  readonly bitmaps?: Bitmaps
}

/** A read into `buffer`. Nothing is written to `buffer` once `isWanted` returns false: the caller may use it for something else. */
export interface PastRead {
  readonly buffer: Uint8Array
  readonly offset: number
  readonly isWanted: () => boolean
}

/** Shorter reads use pages: the promise costs more than the copy that it saves. */
const LEAST_PAST = 1 << 17

/**
 * Fills the buffer from the source's stream. Undefined if the caller must use `pread`.
 * @throws BackingError (as a rejection); TypeError if the buffer is detached meanwhile
 */
export function readPast(disk: LoadingDisk, { buffer, offset, isWanted }: PastRead): Promise<void> | undefined {
  const { length } = buffer
  if (length < LEAST_PAST) return undefined
  let done = 0
  const reading = disk.preadPast?.(offset, length, (piece) => {
    // For a detached buffer, `set` would throw, which would end the stream of all readers and have the rest requested again and again.
    if (!isWanted() || buffer.length !== length) return
    buffer.set(piece, done)
    done += piece.length
  })
  return reading?.then(() => {
    if (buffer.length !== length) throw new TypeError("the buffer was detached before the read had ended")
  })
}

/** Closes the file and waits for its release. Also rejects with an error of `close`. */
export async function release(file: LateFile): Promise<void> {
  file.close()
  await file.released()
}

/** Repeats a call until nothing that it needs is missing. */
export type Insist = <T>(kind: "reads" | "changes", attempt: () => T) => T | Promise<T>

export function lateSnapshots(snapshots: Snapshots<SnapshotView>, insist: Insist): SnapshotActions {
  return {
    list: (): readonly SnapshotInfo[] | Promise<readonly SnapshotInfo[]> => insist("reads", () => snapshots.list()),
    create: (options: CreateSnapshotOptions): SnapshotInfo | Promise<SnapshotInfo> => insist("changes", () => snapshots.create(options)),
    apply: (idOrName: string): void | Promise<void> => insist("changes", () => snapshots.apply(idOrName)),
    delete: (idOrName: string): void | Promise<void> => insist("changes", () => snapshots.delete(idOrName)),
  }
}

export function lateBitmaps(bitmaps: Bitmaps, insist: Insist): BitmapActions {
  return {
    list: (): readonly BitmapInfo[] | Promise<readonly BitmapInfo[]> => insist("reads", () => bitmaps.list()),
    add: (name: string, options?: AddBitmapOptions): void | Promise<void> => insist("changes", () => bitmaps.add(name, options)),
    remove: (name: string): void | Promise<void> => insist("changes", () => bitmaps.remove(name)),
    clear: (name: string): void | Promise<void> => insist("changes", () => bitmaps.clear(name)),
    enable: (name: string): void | Promise<void> => insist("changes", () => bitmaps.enable(name)),
    disable: (name: string): void | Promise<void> => insist("changes", () => bitmaps.disable(name)),
    merge: (name: string, from: string): void | Promise<void> => insist("changes", () => bitmaps.merge(name, from)),
    changed: (name: string, offset?: number, length?: number): Iterable<ChangedRange> | Promise<Iterable<ChangedRange>> =>
      insist("reads", () => [...bitmaps.changed(name, offset, length)]),
  }
}

/** A synchronous file as a `LateFile` that never waits, so that the disk closes it. */
export function answersAtOnce(file: ImageFile): LateFile {
  return {
    hasRoom: true, room: async () => undefined, stable: () => undefined, close: () => file.close(), released: async () => undefined,
  }
}
