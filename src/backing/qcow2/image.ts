/** Qcow2Image: a qcow2 file as a disk. Wires the parts, and keeps the rules that hold for all: bounds, read-only, corrupt, closed. */
import { closesWithBlock, type Disposing } from "../../disposing.ts"
import { type Allocation, BackingError, checkRange, type DiskVersion, totalLength, type VirtioBacking } from "../backing.ts"
import type { ImageLock } from "../image-file.ts"
import type { BitmapStore } from "./bitmaps/bitmap-store.ts"
import { Bitmaps } from "./bitmaps/bitmaps.ts"
import { closeAll } from "./metadata/cluster-file.ts"
import { compressLater } from "./compressed-writer.ts"
import type { Geometry } from "./format/geometry.ts"
import type { Qcow2Header } from "./format/header.ts"
import {
  beginWriting, type ChangedParts, finishWriting, type ImageParts, type InspectedParts, lentParts, type PartsBase, partsBase,
  type Qcow2Parts,
} from "./image-parts.ts"
import { LiveImage } from "./live-image.ts"
import { findAllocation, type MapExtent, mapExtents } from "./map-extents.ts"
import type { BackingDisk, Reader } from "./reader.ts"
import { resizeImage, type ResizeImageOptions } from "./resize/resize.ts"
import { lent } from "./snapshots/lent-file.ts"
import { Snapshots } from "./snapshots/snapshots.ts"

/** `using` closes it. */
export interface Qcow2Image extends Disposing {}

/**
 * A qcow2 image as a disk; made by `openQcow2Image`. All calls are synchronous. Writes are durable after `flush` or `close`. After an I/O
 * error in any call there is nothing to undo: the call can be repeated.
 */
export class Qcow2Image implements VirtioBacking {
  static { closesWithBlock(this) }
  readonly readOnly: boolean
  readonly discardGranularity: number = 0
  /** The lock that keeps other programs from opening the image. Its backing files have their own locks. */
  readonly lock: ImageLock
  readonly version: () => DiskVersion | undefined
  /** The internal snapshots. */
  readonly snapshots: Snapshots<Qcow2Image>
  /** The persistent dirty bitmaps. */
  readonly bitmaps: Bitmaps
  readonly #tracking: BitmapStore
  readonly #base: PartsBase
  readonly #live: LiveImage
  #geometry: Geometry
  #size = 0
  #reader: Reader
  #inspected: InspectedParts
  #writing: ChangedParts | undefined
  #isClosed = false

  constructor(parts: Qcow2Parts) {
    const { header, file } = parts
    const base = (this.#base = partsBase(parts))
    this.readOnly = parts.readOnly
    this.lock = file.lock ?? "none"
    this.version = () => base.file.version(this.geometry.clusterSize, this.backing, base.external?.file)
    // All checks that can refuse the image come before its first write, which clears the feature bits that we do not maintain.
    this.#live = new LiveImage(base, header, (made) => this.#take(made))
    const made = this.#live.parts
    this.#geometry = made.geometry
    this.#size = header.size
    this.#reader = made.reader
    ;({ inspected: this.#inspected, changed: this.#writing } = lentParts(base, made))
    this.#tracking = base.bitmaps
    this.snapshots = new Snapshots<Qcow2Image>({
      image: this.#live, view: (seen, { hasBacking }) => new Qcow2Image(lent({ ...parts, header: seen }, hasBacking ? base.backing : {})),
      moved: (view, table) => view.#live.move(table), noting: (work) => this.inspect(work),
      replacing: (size, work) => this.#tracking.replaced(size, work),
    })
    this.discardGranularity = made.geometry.clusterSize
    this.bitmaps = new Bitmaps({
      ...made.geometry, path: file.path, size: () => this.#size, inspect: (work) => this.inspect(() => work(base.bitmaps)),
      change: (work) => this.change(() => work(base.bitmaps)),
    })
    if (made.writing !== undefined) beginWriting(base, made.writing)
  }

  /** Guest-visible bytes, exactly as the header has them. */
  get size(): number {
    return this.#size
  }

  get geometry(): Geometry {
    return this.#geometry
  }

  /** The file's name. */
  get path(): string {
    return this.#base.file.path
  }

  /** The disk that supplies unallocated clusters. */
  get backing(): BackingDisk | undefined {
    return this.#base.backing.disk
  }

  /** Name of the external data file, if there is one: then `hostOffset` of an extent is an offset in that file. */
  get dataPath(): string | undefined {
    return this.#base.external?.file.path
  }

  get zeroesAtOnce(): number {
    return this.#writing?.zeroing.zeroesAtOnce ?? this.geometry.clusterSize
  }

  get unmapsAtOnce(): number {
    return this.#writing?.zeroing.unmapsAtOnce ?? this.geometry.clusterSize
  }

  /** A compressed cluster has been read: the next small read may take milliseconds. */
  get slow(): boolean {
    return this.#reader.slow
  }

  /** The header as it is on disk. */
  get header(): Qcow2Header {
    return this.#base.header.header
  }

  pread(buffer: Uint8Array, offset: number): void {
    this.preadInto(buffer, 0, buffer.length, offset)
  }

  preadInto(ram: Uint8Array, start: number, length: number, offset: number): void {
    this.#checkAccess(offset, length)
    try {
      this.#reader.readInto(ram, start, length, offset)
    } catch (error) {
      throw this.#live.noted(error)
    }
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    const length = totalLength(buffers)
    this.#checkAccess(offset, length)
    try {
      this.#reader.read(buffers, offset, length)
    } catch (error) {
      throw this.#live.noted(error)
    }
  }

  pwrite(buffer: Uint8Array, offset: number): void {
    this.pwriteFrom(buffer, 0, buffer.length, offset)
  }

  pwriteFrom(ram: Uint8Array, start: number, length: number, offset: number): void {
    this.#checkAccess(offset, length)
    const { writer } = this.#writable()
    if (this.#tracking.isRecording) this.#tracking.mark(offset, length)
    try {
      writer.writeFrom(ram, start, length, offset)
    } catch (error) {
      throw this.#live.noted(error)
    }
  }

  pwritev(buffers: readonly Uint8Array[], offset: number): void {
    const length = totalLength(buffers)
    this.#checkAccess(offset, length)
    const { writer } = this.#writable()
    if (this.#tracking.isRecording) this.#tracking.mark(offset, length)
    try {
      writer.write(buffers, offset, length)
    } catch (error) {
      throw this.#live.noted(error)
    }
  }

  flush(): void {
    this.#checkAccess(0, 0)
    if (this.#writing === undefined) return
    this.change(({ metadataWriter }) => metadataWriter.store())
    try {
      this.change(({ metadataWriter }) => metadataWriter.free())
    } catch (error) {
      // Everything is stored. Clusters that could not be freed stay on the list; `close` reports the error at the latest.
      if (!(error instanceof BackingError)) throw error
    }
  }

  /** Holds the thread for a few milliseconds for `unmapsAtOnce` bytes with L2 tables; passes thousands of missing tables at once. */
  discard(offset: number, length: number): void {
    this.#checkAccess(offset, length)
    this.#tracking.mark(offset, length)
    this.change(({ zeroing }) => zeroing.discard(offset, length))
  }

  writeZeroes(offset: number, length: number, mayUnmap: boolean): void {
    this.#checkAccess(offset, length)
    this.#tracking.mark(offset, length)
    this.change(({ zeroing }) => zeroing.writeZeroes(offset, length, mayUnmap))
  }

  /** Passes the parts of the image to `work`, which must not change them: for operations beyond those of a disk. @throws as `pread` */
  inspect<T>(work: (parts: InspectedParts) => T): T {
    this.#checkAccess(0, 0)
    try {
      return work(this.#inspected)
    } catch (error) {
      throw this.#live.noted(error)
    }
  }

  /** `inspect` for work that changes the image. After an error it can be repeated. @throws as `pwrite` */
  change<T>(work: (parts: ChangedParts) => T): T {
    this.#writable()
    // Fetched again, because the check in `inspect` may have replaced the parts.
    return this.inspect(() => work(this.#writable()))
  }

  /**
   * Stores whole clusters compressed, packed into clusters of the file. A cluster that does not shrink is stored uncompressed. `offset` is
   * a cluster boundary, and `buffer` ends at one, or at the end of the disk. After an error each cluster is either stored or untouched.
   * @param streams the result of `compressLater` for each of these clusters, if it was called
   * @throws BackingError `unsupported` for clusters that are allocated (discard them first), with an external data file, and if the
   * platform cannot compress
   */
  writeCompressed(buffer: Uint8Array, offset: number, streams?: readonly Uint8Array[]): void {
    this.#checkAccess(offset, buffer.length)
    this.#tracking.mark(offset, buffer.length)
    this.change(({ compressedWriter }) => compressedWriter.write(buffer, offset, streams))
  }

  /**
   * Compresses one cluster for `writeCompressed`, on another thread if the platform has threads. Stores nothing. Several calls may overlap.
   * @throws BackingError (as a rejection) `unsupported`
   */
  compressLater(cluster: Uint8Array): Promise<Uint8Array> {
    return compressLater(this.#base.decompressor, cluster, this)
  }

  /** Changes the size of the disk, in bytes. New space reads as zeroes. @throws BackingError as `resizeImage` */
  resize(size: number, options: ResizeImageOptions = {}): void {
    this.change(() => this.#tracking.resized(size, () => resizeImage(this.#live, size, options)))
  }

  /**
   * Stores everything that is cached and releases the files, even if storing fails. After an error that is not a `BackingError` nothing is
   * released, and the call can be repeated. @throws the first error
   */
  close(): void {
    if (this.#isClosed) return
    try {
      if (this.#writing !== undefined && !this.#live.isCorrupt) {
        finishWriting(this.#base, this.#writable())
        this.#base.file.padTo(this.geometry.clusterSize)
      }
    } catch (error) {
      const noted = this.#live.noted(error)
      if (noted instanceof BackingError) this.#release()
      throw noted
    }
    this.#release()
  }

  #release(): void {
    this.#isClosed = true
    closeAll([this.#base.file, this.#base.external?.file, this.backing])
  }

  /** Where a range is stored, in order. Reads only tables; merges neighbours, as far as a few milliseconds allow. @throws as `pread` */
  *map(offset: number, length: number): Generator<MapExtent> {
    this.#checkAccess(offset, length)
    try {
      for (const extent of mapExtents(() => this.#inspected.mapping, this.#geometry, offset, length)) {
        yield extent
        // The caller may have closed the image in between.
        this.#checkAccess(offset, length)
      }
    } catch (error) {
      throw this.#live.noted(error)
    }
  }

  allocation(offset: number, length: number): Allocation {
    this.#checkAccess(offset, length)
    return this.inspect((parts) => findAllocation(parts, offset, length))
  }

  #checkAccess(offset: number, length: number): void {
    if (this.#isClosed) throw new BackingError("closed", "the image is closed", { path: this.path })
    if (this.#live.hasMoved) this.#live.follow()
    checkRange(this.#size, offset, length, this.path)
  }

  #writable(): ChangedParts {
    if (this.#writing === undefined) throw new BackingError("read-only", "the image is open read-only", { path: this.path })
    if (!this.#live.isReady) this.#live.makeReady()
    return this.#writing
  }

  /** Takes the new parts after a change of the whole image. */
  #take(made: ImageParts): void {
    this.#geometry = made.geometry
    this.#size = made.geometry.size
    this.#reader = made.reader
    ;({ inspected: this.#inspected, changed: this.#writing } = lentParts(this.#base, made))
  }
}
