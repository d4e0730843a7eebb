/** Reads guest bytes: looks up their clusters, and reads the file or the backing image, decompresses, or fills in zeroes. */
import { checkMembers, findAsync, isStrayPromise, type Rules } from "../../options.ts"
import { type Allocation, BackingError, type DiskVersion } from "../backing.ts"
import { DecompressionError } from "../decompression/decompression-error.ts"
import { BufferCursor, fillZero, fillZeroFrom, scatter } from "../bytes/buffers.ts"
import type { ClusterFile } from "./metadata/cluster-file.ts"
import { DecompressedCache } from "./decompressed-cache.ts"
import { Extent } from "./metadata/extent.ts"
import type { Decompressor } from "./format/compression.ts"
import { L2_KIND, type L2Kind } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { GuestData } from "./guest-data.ts"
import type { Mapping } from "./metadata/mapping.ts"

/** The disk that supplies an image's unallocated clusters. Always synchronous, unlike a `VirtioBacking`. */
export interface BackingDisk {
  /** Bytes. */
  readonly size: number
  /** As that of `VirtioBacking`. */
  readonly slow?: boolean
  pread(buffer: Uint8Array, offset: number): void
  preadv(buffers: readonly Uint8Array[], offset: number): void
  /** As that of `VirtioBacking`. */
  allocation?(offset: number, length: number): Allocation
  /** As that of `VirtioBacking`. */
  version?(): DiskVersion | undefined
  close(): void
}

const BACKING_DISK_RULES: Rules<BackingDisk> = {
  size: "number", slow: "any?", pread: "function", preadv: "function", allocation: "function?", version: "function?", close: "function",
}

/** @throws TypeError if `openBacking` returned something other than a `BackingDisk` */
export function checkBackingDisk(who: string, disk: BackingDisk): void {
  const what = "what openBacking returned"
  checkMembers(who, what, disk, BACKING_DISK_RULES, "BackingDisk")
  const late = findAsync(disk, ["pread", "preadv", "allocation"])
  if (late !== undefined) throw new TypeError(`${who}: ${late} of ${what} is an async function; a backing image is read synchronously`)
}

/** Holds the backing disk of an image, which may be replaced while the image is open. */
export interface BackingSlot {
  disk?: BackingDisk | undefined
  /** The disk that will replace it. Until then, zeroing must hide the content of both. */
  next?: BackingDisk | undefined
}

/** Refuses a backing disk that reads asynchronously: its buffers would be used before they are filled. */
function refusePromise(answer: unknown): void {
  if (answer === undefined || !isStrayPromise(answer)) return
  throw new TypeError("preadv of a backing image returned a promise; it is read synchronously")
}

export interface ReaderOptions {
  /** Compressed clusters are read from here. */
  readonly file: ClusterFile
  /** Guest clusters are read from here. */
  readonly data: GuestData
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly backing: BackingSlot
  readonly compressionType: number
  readonly decompressor: Decompressor
}

export class Reader {
  /** The reads and writes of guest clusters. */
  readonly data: GuestData
  readonly #file: ClusterFile
  readonly #geometry: Geometry
  readonly #mapping: Mapping
  readonly #backing: BackingSlot
  readonly #compressionType: number = 0
  readonly #decompressor: Decompressor
  readonly #decompressed: DecompressedCache
  #hasDecompressed = false
  readonly #extent = new Extent()

  constructor(options: ReaderOptions) {
    this.#file = options.file
    this.data = options.data
    this.#geometry = options.geometry
    this.#mapping = options.mapping
    this.#backing = options.backing
    this.#compressionType = options.compressionType
    this.#decompressor = options.decompressor
    this.#decompressed = new DecompressedCache(options.geometry.clusterSize)
  }

  /** The end of the backing image, but never beyond this disk. No backing data exists from here on (QC-BF-02, QC-BF-04). */
  get backingEnd(): number {
    return Math.min(this.#backing.disk?.size ?? 0, this.#geometry.size)
  }

  /** `backingEnd` for the current and the next backing disk together: from here on, unallocated clusters read as zeroes over both. */
  get hiddenEnd(): number {
    const { disk, next } = this.#backing
    return Math.min(Math.max(disk?.size ?? 0, next?.size ?? 0), this.#geometry.size)
  }

  /** The disk that supplies unallocated clusters. */
  get backing(): BackingDisk | undefined {
    return this.#backing.disk
  }

  /** Whether this image or a backing image has decompressed a cluster: others may follow. */
  get slow(): boolean {
    return this.#hasDecompressed || this.#backing.disk?.slow === true
  }

  /** Fills `buffer[start .. start + length)` from guest byte `offset`. The range may reach to the end of the disk's last cluster. */
  readInto(buffer: Uint8Array, start: number, length: number, offset: number): void {
    const host = this.#mapping.hostOf(offset, length)
    if (host >= 0) this.data.readInto(buffer, start, length, host, offset)
    else this.read([new Uint8Array(buffer.buffer, buffer.byteOffset + start, length)], offset, length)
  }

  /** Fills `buffers`, `length` bytes in all, from guest byte `offset`. */
  read(buffers: readonly Uint8Array[], offset: number, length: number): void {
    const extent = this.#extent
    this.#mapping.find(offset, length, extent)
    if (extent.length === length) {
      this.#readExtent(buffers, offset)
      return
    }
    const cursor = new BufferCursor(buffers)
    let done = 0
    for (;;) {
      const piece = extent.length
      this.#readExtent(cursor.take(piece), offset + done)
      done += piece
      if (done === length) return
      this.#mapping.find(offset + done, length - done, extent)
    }
  }

  /** How many of `length` guest bytes from `offset` one `readLater` can read: a contiguous run in the file, or 0. */
  lateRunAt(offset: number, length: number): number {
    if (this.data.readsLater !== true) return 0
    this.#mapping.find(offset, length, this.#extent)
    return this.#extent.kind === L2_KIND.NORMAL ? this.#extent.length : 0
  }

  /** Fills `buffer` on another thread; no longer than `lateRunAt` returned. */
  async readLater(buffer: Uint8Array, offset: number): Promise<void> {
    const extent = this.#extent
    this.#mapping.find(offset, buffer.length, extent)
    await this.data.readLater?.(buffer, extent.host, offset)
  }

  /** Forgets the cached cluster at host byte `host`, because its compressed data has changed. */
  forgetDecompressed(host: number): void {
    this.#decompressed.forget(host)
  }

  /** Whether the tables alone show that `length` guest bytes from `offset` read as zeroes, also over the next backing disk. */
  holdsZeroes(offset: number, length: number): boolean {
    const extent = this.#extent
    for (let done = 0; done < length; done += extent.length) {
      this.#mapping.find(offset + done, length - done, extent)
      if (!this.#isZero(extent.kind, offset + done)) return false
    }
    return true
  }

  #isZero(kind: L2Kind, offset: number): boolean {
    if (kind === L2_KIND.UNALLOCATED) return offset >= this.hiddenEnd
    return kind === L2_KIND.ZERO || kind === L2_KIND.ZERO_ALLOCATED
  }

  #readExtent(buffers: readonly Uint8Array[], offset: number): void {
    const extent = this.#extent
    switch (extent.kind) {
      case L2_KIND.NORMAL:
        this.data.readv(buffers, extent.host, extent.length, offset)
        return
      case L2_KIND.ZERO:
      case L2_KIND.ZERO_ALLOCATED:
        fillZero(buffers)
        return
      case L2_KIND.UNALLOCATED:
        this.#readBacking(buffers, offset, extent.length)
        return
      case L2_KIND.COMPRESSED:
        scatter(this.#decompress(extent.host, extent.stored), extent.within, buffers)
        return
      case L2_KIND.CORRUPT:
        throw new Error("the mapping found a corrupt entry and went on")
    }
  }

  #readBacking(buffers: readonly Uint8Array[], offset: number, length: number): void {
    const backing = this.#backing.disk
    const available = this.backingEnd - offset
    if (backing === undefined || available <= 0) fillZero(buffers)
    else if (available >= length) refusePromise(backing.preadv(buffers, offset))
    else {
      refusePromise(backing.preadv(new BufferCursor(buffers).take(available), offset))
      fillZeroFrom(buffers, available)
    }
  }

  /** The decompressed cluster of a compressed entry, whose data is at most the `stored` bytes at `host`. */
  #decompress(host: number, stored: number): Uint8Array {
    const known = this.#decompressed.get(host, stored)
    if (known !== undefined) return known
    this.#hasDecompressed = true
    const data = new Uint8Array(stored)
    // The last sector may reach past the end of the file (QC-CMP-14).
    const bytes = this.#inflate(data.subarray(0, this.#file.readSome(data, host)), host)
    this.#decompressed.put(host, stored, bytes)
    return bytes
  }

  #inflate(stored: Uint8Array, offset: number): Uint8Array {
    const path = this.#file.path
    try {
      return this.#decompressor.decompress(stored, this.#geometry.clusterSize, this.#compressionType)
    } catch (error) {
      if (!(error instanceof DecompressionError)) throw error
      const message = `the compressed cluster at byte ${offset} cannot be decompressed: ${error.message}`
      throw new BackingError("io", message, { path, offset, cause: error })
    }
  }
}
