/** Qcow2Image: a qcow2 file as a disk. Opens it, wires the parts, and keeps the rules that hold for all of them: bounds, read-only, corrupt, closed. */
import { BackingError, checkRange, totalLength, type VirtioBacking } from "../backing.ts"
import type { ImageFile, ImageLock } from "../image-file.ts"
import { Allocator } from "./allocator.ts"
import { ClusterFile } from "./cluster-file.ts"
import { clearAutoclear, markCorrupt } from "./feature-bits.ts"
import type { Decompressor } from "./format/compression.ts"
import type { Geometry } from "./format/geometry.ts"
import { headerGeometry, type Qcow2Header } from "./format/header.ts"
import { type MapExtent, mapExtents } from "./map-extents.ts"
import { Mapping } from "./mapping.ts"
import { mapMetadata } from "./metadata-regions.ts"
import { MetadataWriter } from "./metadata-writer.ts"
import { type BackingDisk, Reader } from "./reader.ts"
import { Refcounts } from "./refcounts.ts"
import { TableCache } from "./table-cache.ts"
import { Writer } from "./writer.ts"
import { Zeroing } from "./zeroing.ts"

/** Refcount blocks cover four times as much as L2 tables of the same size (at 16 bits), and only allocation needs them. */
const REFCOUNT_CACHE_SHARE = 1 / 4

/** What `openQcow2Image` has found and checked. */
export interface Qcow2Parts {
  readonly file: ImageFile
  readonly header: Qcow2Header
  readonly readOnly: boolean
  readonly backing: BackingDisk | undefined
  readonly decompressor: Decompressor | undefined
  /** Bytes. */
  readonly cacheSize: number
}

/** The parts that only a writable image has. */
interface WritingParts {
  readonly writer: Writer
  readonly zeroing: Zeroing
  readonly metadataWriter: MetadataWriter
}

/** A qcow2 image as a disk; made by `openQcow2Image`. All calls are synchronous. What is written is on stable storage after `flush` or `close`. */
export class Qcow2Image implements VirtioBacking {
  /** Guest-visible bytes, exactly as the header has them. */
  readonly size: number
  readonly readOnly: boolean
  readonly discardGranularity: number
  /** The header as it was read. Its feature words change on disk when the image is opened for writing, or found corrupt. */
  readonly header: Qcow2Header
  readonly geometry: Geometry
  readonly backing: BackingDisk | undefined
  /** What keeps other programs from opening the image. Its backing files have locks of their own. */
  readonly lock: ImageLock
  readonly #path: string
  readonly #file: ClusterFile
  readonly #mapping: Mapping
  readonly #reader: Reader
  readonly #writing: WritingParts | undefined
  /** Why nothing may be written any more. */
  #corruption: string | undefined
  #isClosed = false

  constructor(parts: Qcow2Parts) {
    const { header } = parts
    this.header = header
    this.geometry = headerGeometry(header)
    this.size = header.size
    this.readOnly = parts.readOnly
    this.discardGranularity = this.geometry.clusterSize
    this.backing = parts.backing
    this.lock = parts.file.lock ?? "none"
    this.#path = parts.file.path
    this.#file = new ClusterFile(parts.file)
    const { clusterSize } = this.geometry
    const { cacheSize } = parts
    const l2Cache = new TableCache(this.#file, { clusterSize, capacity: cacheSize * (1 - REFCOUNT_CACHE_SHARE) })
    const corrupt = this.#reportCorruption.bind(this)
    this.#mapping = new Mapping({
      file: this.#file,
      geometry: this.geometry,
      cache: l2Cache,
      l1TableOffset: header.l1TableOffset,
      l1Size: header.l1Size,
      corrupt,
    })
    this.#reader = new Reader({
      file: this.#file,
      geometry: this.geometry,
      mapping: this.#mapping,
      backing: parts.backing,
      compressionType: header.compressionType,
      decompressor: parts.decompressor,
    })
    if (parts.readOnly) return
    const refcountCache = new TableCache(this.#file, { clusterSize, capacity: cacheSize * REFCOUNT_CACHE_SHARE })
    this.#writing = this.#makeWritable(parts.file, { l2Cache, refcountCache })
  }

  /** The file's name. */
  get path(): string {
    return this.#path
  }

  pread(buffer: Uint8Array, offset: number): void {
    this.#checkAccess(offset, buffer.length)
    this.#reader.readOne(buffer, offset)
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    const length = totalLength(buffers)
    this.#checkAccess(offset, length)
    this.#reader.read(buffers, offset, length)
  }

  pwrite(buffer: Uint8Array, offset: number): void {
    this.#checkAccess(offset, buffer.length)
    this.#writable().writer.writeOne(buffer, offset)
  }

  pwritev(buffers: readonly Uint8Array[], offset: number): void {
    const length = totalLength(buffers)
    this.#checkAccess(offset, length)
    this.#writable().writer.write(buffers, offset, length)
  }

  flush(): void {
    this.#checkAccess(0, 0)
    if (this.#writing === undefined) return
    this.#writable().metadataWriter.flush()
  }

  discard(offset: number, length: number): void {
    this.#checkAccess(offset, length)
    this.#writable().zeroing.discard(offset, length)
  }

  writeZeroes(offset: number, length: number, mayUnmap: boolean): void {
    this.#checkAccess(offset, length)
    this.#writable().zeroing.writeZeroes(offset, length, mayUnmap)
  }

  /** Stores all that is cached and releases the file and the backing image, these also when storing fails; the first error is thrown. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    try {
      if (this.#writing !== undefined && this.#corruption === undefined) {
        this.#writing.metadataWriter.finish()
        this.#file.padTo(this.geometry.clusterSize)
      }
    } finally {
      try {
        this.#file.close()
      } finally {
        this.backing?.close()
      }
    }
  }

  /** Where the bytes of a range live, in order, neighbours of one kind merged. Nothing is read but tables. Throws like `pread`. */
  *map(offset: number, length: number): Generator<MapExtent> {
    this.#checkAccess(offset, length)
    for (const extent of mapExtents(this.#mapping, offset, length)) {
      yield extent
      // The caller may have closed the image in between.
      this.#checkAccess(offset, length)
    }
  }

  #checkAccess(offset: number, length: number): void {
    if (this.#isClosed) throw new BackingError("closed", "the image is closed", { path: this.#path })
    checkRange(this.size, offset, length, this.#path)
  }

  #writable(): WritingParts {
    if (this.#writing === undefined) throw new BackingError("read-only", "the image is open read-only", { path: this.#path })
    if (this.#corruption !== undefined)
      throw new BackingError("corrupt", `the image is corrupt and is not written any more: ${this.#corruption}`, { path: this.#path })
    return this.#writing
  }

  /** Everything that can refuse the image comes first; then its first write, which drops the feature bits that would not be kept up (QC-FEAT-03, QC-BMP-03). */
  #makeWritable(imageFile: ImageFile, caches: { readonly l2Cache: TableCache; readonly refcountCache: TableCache }): WritingParts {
    const { header, geometry } = this
    const file = this.#file
    const mapping = this.#mapping
    const corrupt = this.#reportCorruption.bind(this)
    const refcounts = new Refcounts({
      file,
      geometry,
      cache: caches.refcountCache,
      tableOffset: header.refcountTableOffset,
      tableClusters: header.refcountTableClusters,
      corrupt,
    })
    const metadata = mapMetadata({ file: imageFile, header, geometry, mapping, refcounts })
    refcounts.refuseSharedBlocks()
    refcounts.protect(metadata)
    const allocator = new Allocator({ file, geometry, refcounts })
    mapping.makeWritable({ allocator, refcounts, metadata })
    const metadataWriter = new MetadataWriter({ file, geometry, mapping, refcounts, allocator, ...caches })
    const writer = new Writer({ file, geometry, mapping, reader: this.#reader, allocator, metadata, metadataWriter, corrupt })
    const zeroing = new Zeroing({ geometry, mapping, writer, metadataWriter, backingEnd: this.#reader.backingEnd })
    clearAutoclear(file, header)
    return { writer, zeroing, metadataWriter }
  }

  /** Notes metadata that cannot be right: marks the image corrupt, where that is possible, and stops writing to it (QC-FEAT-10). */
  #reportCorruption(message: string, offset: number): BackingError {
    if (this.#writing !== undefined && this.#corruption === undefined) {
      // What was written before is sound and counts as written: store it, then stop.
      try {
        if (!this.#writing.metadataWriter.isBusy) this.#writing.metadataWriter.flush()
      } catch {
        // The corruption is what has to be reported.
      }
      this.#corruption = message
      markCorrupt(this.#file, this.header)
    }
    return new BackingError("corrupt", message, { path: this.#path, offset })
  }
}
