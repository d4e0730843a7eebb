/**
 * BitmapStore: the persistent bitmaps of an open image. Lists them, records writes in them, and stores them.
 *
 * While an image is open for writing, its recording bitmaps are marked as in use on disk (QC-BMP-09), and new bits stay in memory. `store`
 * writes the bits, in place or to new clusters, then the tables and the directory, with syncs between, and clears the marks last. After a
 * crash the marked bitmaps count as inconsistent, and at worst clusters are leaked.
 */
import { BackingError } from "../../backing.ts"
import {
  BITMAP_FLAG, BITMAP_LIMIT, checkedDirectoryPlace, decodeDirectory, DIRECTORY_FIELD, encodeBitmapsExtension, encodeDirectory,
} from "../format/bitmaps.ts"
import { viewOf } from "../../bytes/fields.ts"
import { headerGeometry, type Qcow2Header } from "../format/header.ts"
import { AUTOCLEAR_BIT, EXTENSION_TYPE, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { Allocator } from "../metadata/allocator.ts"
import type { ClusterFile } from "../metadata/cluster-file.ts"
import type { HeaderStore } from "../metadata/header-store.ts"
import type { MetadataMap, MetadataRange } from "../metadata/metadata-map.ts"
import type { MetadataWriter } from "../metadata/metadata-writer.ts"
import type { Refcounts } from "../metadata/refcounts.ts"
import { bytesFor, refuseMoreThanMost, refuseResize } from "./bitmap-sizes.ts"
import { DirtyBitmap } from "./dirty-bitmap.ts"

/** The parts of a writable image that `store` needs. */
export interface StoringParts {
  readonly allocator: Allocator
  readonly metadata: MetadataMap
  readonly refcounts: Refcounts
  readonly metadataWriter: MetadataWriter
}

const AUTOCLEAR = 1n << BigInt(AUTOCLEAR_BIT.BITMAPS)

export class BitmapStore {
  /** Some bitmap records writes: call `mark`. */
  isRecording = false
  /** In the order of the directory; undefined until the directory is read. */
  #list: DirtyBitmap[] | undefined
  readonly #file: ClusterFile
  readonly #header: HeaderStore
  readonly #clusterSize: number = 0
  /** The bitmaps that record writes. */
  #recording: readonly DirtyBitmap[] = []
  /** The directory on disk. */
  #directory: { readonly offset: number; readonly length: number } | undefined
  /** Bitmaps were added or removed, or their tables have moved: the directory on disk is out of date. */
  #isRebuilt = false
  /** The next directory, after its clusters are allocated. */
  #next: { readonly offset: number; readonly bytes: Uint8Array } | undefined
  readonly #removed: DirtyBitmap[] = []

  constructor(file: ClusterFile, header: HeaderStore) {
    this.#file = file
    this.#header = header
    this.#clusterSize = 2 ** header.header.clusterBits
  }

  /**
   * The bitmaps, in the order of the directory. The first access reads it.
   * @throws BackingError `invalid-format` for a directory that QEMU refuses, and errors of reading
   */
  get list(): DirtyBitmap[] {
    return (this.#list ??= this.#read())
  }

  #read(): DirtyBitmap[] {
    const file = this.#file
    const place = checkedDirectoryPlace(this.#header.header, file.path)
    if (place === undefined) return []
    const geometry = headerGeometry(this.#header.header)
    const bytes = new Uint8Array(place.length)
    file.read(bytes, place.offset)
    const entries = decodeDirectory(bytes, place.count, { geometry, path: file.path })
    const list = entries.map(({ entry, at }) => new DirtyBitmap({ file, clusterSize: geometry.clusterSize }, entry, place.offset + at))
    this.#directory = place
    this.#choose(list)
    return list
  }

  /** Structures that guest data must not overwrite. Only refcounts protect the bits themselves. */
  get ranges(): MetadataRange[] {
    // The list comes first, because it reads the directory.
    const tables = this.list.map(({ tableOffset, tableEntries }) => ({
      offset: tableOffset, length: tableOffset === 0 ? 0 : tableEntries * TABLE_ENTRY_SIZE, name: "a bitmap table",
    }))
    const { offset = 0, length = 0 } = this.#directory ?? {}
    return [{ offset, length, name: "the bitmap directory" }, ...tables]
  }

  /**
   * Marks the recording bitmaps as in use, before anything else is written. Drops a directory whose autoclear bit is not set (QC-BMP-02).
   */
  begin(): void {
    const { header } = this.#header
    const isNamed = header.extensions.some(({ type }) => type === EXTENSION_TYPE.BITMAPS)
    if (isNamed && checkedDirectoryPlace(header, this.#file.path) === undefined) this.#header.rewrite(withBitmaps(header, undefined))
    this.#flag(this.#recording)
  }

  /** Records a guest write of `length` bytes at `offset`. */
  mark(offset: number, length: number): void {
    if (length === 0) return
    for (const bitmap of this.#recording) bitmap.mark(offset, length)
  }

  /** The bitmap of that name. @throws BackingError `not-found`, or `corrupt` for an inconsistent one */
  usable(name: string): DirtyBitmap {
    const bitmap = this.find(name)
    if (bitmap.isUsable) return bitmap
    const message = `bitmap "${name}" is not consistent: a program that had it open ended without storing it; remove it, and make a new one`
    throw new BackingError("corrupt", message, { path: this.#file.path })
  }

  /** @throws BackingError `not-found` */
  find(name: string): DirtyBitmap {
    const bitmap = this.list.find((other) => other.name === name)
    if (bitmap !== undefined) return bitmap
    throw new BackingError("not-found", `there is no bitmap "${name}"`, { path: this.#file.path })
  }

  /**
   * Adds a bitmap with no bit set. The caller has checked the name and the granularity. @throws BackingError `exists`, `no-space`,
   * `unsupported`
   */
  add(name: string, granularityBits: number, options: { readonly isEnabled: boolean }): void {
    const { header } = this.#header
    const refuse = (code: "exists" | "unsupported" | "no-space", message: string): BackingError =>
      new BackingError(code, message, { path: this.#file.path })
    if (header.version < 3) throw refuse("unsupported", "bitmaps need version 3 of the format; change the image with amend -o compat=1.1")
    if (this.list.some((other) => other.name === name)) throw refuse("exists", `there is a bitmap "${name}" already`)
    if (this.list.length >= BITMAP_LIMIT.BITMAPS) throw refuse("no-space", `an image has at most ${BITMAP_LIMIT.BITMAPS} bitmaps`)
    const bytes = bytesFor(granularityBits, { size: header.size, ...this.#place })
    if (bytes > BITMAP_LIMIT.DATA_BYTES) {
      throw refuse(
        "no-space",
        `a bitmap with a bit for each ${2 ** granularityBits} bytes is too large for the disk; choose a larger granularity`,
      )
    }
    const tableEntries = bytes / this.#clusterSize
    const flags = options.isEnabled ? BITMAP_FLAG.AUTO : 0
    const entry = { tableOffset: 0, tableEntries, flags, granularityBits, name, extraData: new Uint8Array(0) }
    const bitmap = new DirtyBitmap({ file: this.#file, clusterSize: this.#clusterSize }, entry, undefined)
    this.#choose([...this.list, bitmap])
    this.list.push(bitmap)
    this.#rebuild()
  }

  remove(bitmap: DirtyBitmap): void {
    bitmap.leave()
    this.list.splice(this.list.indexOf(bitmap), 1)
    this.#removed.push(bitmap)
    this.#rebuild()
    this.#choose(this.list)
  }

  enable(bitmap: DirtyBitmap, isEnabled: boolean): void {
    if (isEnabled && !bitmap.isEnabled) refuseMoreThanMost([...this.#recording, bitmap].map(({ bytes }) => bytes), this.#place)
    bitmap.isEnabled = isEnabled
    this.#choose(this.list)
    this.#flag(this.#recording)
  }

  /**
   * Lets `work` resize the disk to `size` bytes, and resizes the bitmaps.
   * @throws BackingError `unsupported` as `refuseResize`, and what `work` throws
   */
  resized(size: number, work: () => void): void {
    refuseResize(this.list, { size, ...this.#place })
    refuseMoreThanMost(this.#recording.map(({ granularityBits }) => bytesFor(granularityBits, { size, ...this.#place })), this.#place)
    this.#flag(this.list)
    // Everything that can fail comes first: nobody would open an image whose bitmaps do not fit its size.
    const changes = this.list.map((bitmap) => bitmap.prepareResize(size))
    try {
      work()
    } finally {
      // If `work` failed after it had changed the size, the bitmaps change as well.
      if (this.#header.header.size === size) {
        for (const change of changes) change()
        if (this.list.length > 0) this.#rebuild()
      }
    }
  }

  /** Lets `work` replace the whole disk by one of `size` bytes, and marks all of it as changed. */
  replaced(size: number, work: () => void): void {
    if (size === this.#header.header.size) work()
    else this.resized(size, work)
    this.mark(0, size)
  }

  /**
   * Stores all bitmaps and clears their marks on disk.
   * @throws BackingError; then the bitmaps on disk stay marked as in use until a repeated call succeeds
   */
  store(parts: StoringParts): void {
    const changed = this.list.filter((bitmap) => bitmap.isUsable && bitmap.isChanged)
    const hasMarks = this.list.some((bitmap) => bitmap.flags !== bitmap.storedFlags || !bitmap.areFlagsSure)
    if (changed.length === 0 && !hasMarks && !this.#isRebuilt) return
    this.#flag(changed)
    for (const bitmap of changed) bitmap.storePages(parts)
    if (this.#isRebuilt) this.#placeDirectory(parts.allocator)
    // First the clusters that the tables and the directory refer to, and the guest data that the bitmaps describe.
    parts.metadataWriter.store()
    for (const bitmap of changed) bitmap.storeTable()
    if (this.#next !== undefined) this.#file.write(this.#next.bytes, this.#next.offset)
    this.#file.sync()
    for (const bitmap of changed) bitmap.tableStored()
    if (this.#isRebuilt) this.#switchDirectory(parts.allocator)
    else this.#storeFlags(this.list, (bitmap) => bitmap.flags)
    for (const bitmap of [...this.list, ...this.#removed.splice(0)]) {
      for (const { first, count } of bitmap.left.splice(0)) parts.allocator.releaseLater(first, count)
    }
  }

  get #place(): { readonly clusterSize: number; readonly path: string } {
    return { clusterSize: this.#clusterSize, path: this.#file.path }
  }

  /** Selects the bitmaps of `list` that record from now on. */
  #choose(list: readonly DirtyBitmap[]): void {
    const recording = list.filter(({ isUsable, isEnabled }) => isUsable && isEnabled)
    refuseMoreThanMost(recording.map(({ bytes }) => bytes), this.#place)
    this.#recording = recording
    this.isRecording = recording.length > 0
  }

  #rebuild(): void {
    this.#isRebuilt = true
    this.#next = undefined
  }

  /** Marks bitmaps as in use on the disk. */
  #flag(bitmaps: readonly DirtyBitmap[]): void {
    this.#storeFlags(bitmaps, (bitmap) => bitmap.storedFlags | BITMAP_FLAG.IN_USE)
  }

  /** Stores the flags of each bitmap that has an entry on disk: four bytes, which a crash cannot tear. */
  #storeFlags(bitmaps: readonly DirtyBitmap[], flagsOf: (bitmap: DirtyBitmap) => number): void {
    const stored: (() => void)[] = []
    for (const bitmap of bitmaps) {
      const flags = flagsOf(bitmap)
      if (bitmap.entryOffset === undefined || (flags === bitmap.storedFlags && bitmap.areFlagsSure)) continue
      const word = new Uint8Array(4)
      viewOf(word).setUint32(0, flags)
      bitmap.areFlagsSure = false
      this.#file.write(word, bitmap.entryOffset + DIRECTORY_FIELD.FLAGS)
      stored.push(() => bitmap.flagsStored(flags))
    }
    if (stored.length === 0) return
    this.#file.sync()
    for (const note of stored) note()
  }

  #placeDirectory(allocator: Allocator): void {
    if (this.#next !== undefined || this.list.length === 0) return
    const bytes = encodeDirectory(this.list.map(({ entry }) => entry))
    if (bytes.length > BITMAP_LIMIT.DIRECTORY_BYTES) {
      const message = `the bitmap directory would have ${bytes.length} bytes, more than ${BITMAP_LIMIT.DIRECTORY_BYTES}`
      throw new BackingError("no-space", message, { path: this.#file.path })
    }
    const { first } = allocator.allocateInRow(Math.ceil(bytes.length / this.#clusterSize))
    this.#next = { offset: first * this.#clusterSize, bytes }
  }

  /** Switches the header to the new directory, or to none. */
  #switchDirectory(allocator: Allocator): void {
    const before = this.#directory
    const { header } = this.#header
    const next = this.#next === undefined ? undefined : { offset: this.#next.offset, length: this.#next.bytes.length }
    this.#header.rewrite(withBitmaps(header, next && { ...next, count: this.list.length }))
    this.#directory = next
    this.#isRebuilt = false
    this.#next = undefined
    if (next !== undefined) this.#noteEntries(next)
    if (before !== undefined) allocator.releaseLater(before.offset / this.#clusterSize, Math.ceil(before.length / this.#clusterSize))
  }

  #noteEntries({ offset }: { readonly offset: number }): void {
    let at = offset
    for (const bitmap of this.list) {
      bitmap.entryOffset = at
      bitmap.flagsStored(bitmap.flags)
      at += encodeDirectory([bitmap.entry]).length
    }
  }
}

/** Returns `header` with that directory, or without bitmaps. */
export function withBitmaps(
  header: Qcow2Header, directory: { readonly offset: number; readonly length: number; readonly count: number } | undefined,
): Qcow2Header {
  const others = header.extensions.filter(({ type }) => type !== EXTENSION_TYPE.BITMAPS)
  if (directory === undefined) return { ...header, extensions: others, autoclearFeatures: header.autoclearFeatures & ~AUTOCLEAR }
  const extensions = [...others, { type: EXTENSION_TYPE.BITMAPS, data: encodeBitmapsExtension(directory) }]
  return { ...header, extensions, autoclearFeatures: header.autoclearFeatures | AUTOCLEAR }
}
