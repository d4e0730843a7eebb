/**
 * BitmapStore: the persistent bitmaps of an open image: which there are, who records writes, and how they come to the file.
 *
 * A bitmap that records is marked as in use on the disk as long as it is open for writing (QC-BMP-09), and what is new stays in memory. At
 * the end new bits go to the places of the old ones, or to new clusters, then the tables, then the directory, with a sync between, and the
 * marks go last. A crash leaves bitmaps that say themselves that they are not to be relied on, and leaks at worst.
 */
import { BackingError } from "../../backing.ts"
import {
  BITMAP_FLAG, BITMAP_LIMIT, checkedDirectoryPlace, decodeDirectory, DIRECTORY_FIELD, encodeBitmapsExtension, encodeDirectory,
} from "../format/bitmaps.ts"
import { viewOf } from "../format/bytes.ts"
import { headerGeometry, type Qcow2Header } from "../format/header.ts"
import { AUTOCLEAR_BIT, EXTENSION_TYPE, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { Allocator } from "../metadata/allocator.ts"
import type { ClusterFile } from "../metadata/cluster-file.ts"
import type { HeaderStore } from "../metadata/header-store.ts"
import type { MetadataMap, MetadataRange } from "../metadata/metadata-map.ts"
import type { MetadataWriter } from "../metadata/metadata-writer.ts"
import { bytesFor, refuseMoreThanMost, refuseResize } from "./bitmap-sizes.ts"
import { DirtyBitmap } from "./dirty-bitmap.ts"

/** The parts of an image that is open for writing that storing takes. */
export interface StoringParts {
  readonly allocator: Allocator
  readonly metadata: MetadataMap
  readonly metadataWriter: MetadataWriter
}

const AUTOCLEAR = 1n << BigInt(AUTOCLEAR_BIT.BITMAPS)

export class BitmapStore {
  /** Some bitmap records: `mark` has something to do. */
  isRecording = false
  /** In the order of the directory; undefined until it is read. */
  #list: DirtyBitmap[] | undefined
  readonly #file: ClusterFile
  readonly #header: HeaderStore
  readonly #clusterSize: number = 0
  /** Those that record. */
  #recording: readonly DirtyBitmap[] = []
  /** Where the directory is on the disk. */
  #directory: { readonly offset: number; readonly length: number } | undefined
  /** Bitmaps have come or gone, or have another table: the directory on the disk is another one. */
  #isRebuilt = false
  /** Where the next directory goes, once a place is taken. */
  #next: { readonly offset: number; readonly bytes: Uint8Array } | undefined
  readonly #removed: DirtyBitmap[] = []

  constructor(file: ClusterFile, header: HeaderStore) {
    this.#file = file
    this.#header = header
    this.#clusterSize = 2 ** header.header.clusterBits
  }

  /**
   * The bitmaps, in the order of the directory, which is read at the first time.
   * @throws BackingError `invalid-format` for one that QEMU refuses, and what reading throws
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

  /** Structures in the file that no guest data may land on. The bits themselves have refcounts only. */
  get ranges(): MetadataRange[] {
    const { offset = 0, length = 0 } = this.#directory ?? {}
    const tables = this.list.map(({ tableOffset, tableEntries }) => ({
      offset: tableOffset, length: tableOffset === 0 ? 0 : tableEntries * TABLE_ENTRY_SIZE, name: "a bitmap table",
    }))
    return [{ offset, length, name: "the bitmap directory" }, ...tables]
  }

  /**
   * The image is open for writing, and nothing has been written: marks the bitmaps that record as in use. A directory that the header names
   * without saying that it is valid is given up (QC-BMP-02).
   */
  begin(): void {
    const { header } = this.#header
    const isNamed = header.extensions.some(({ type }) => type === EXTENSION_TYPE.BITMAPS)
    if (isNamed && checkedDirectoryPlace(header, this.#file.path) === undefined) this.#header.rewrite(withBitmaps(header, undefined))
    this.#flag(this.#recording)
  }

  /** The guest changes `length` bytes from `offset` on. */
  mark(offset: number, length: number): void {
    if (length === 0) return
    for (const bitmap of this.#recording) bitmap.mark(offset, length)
  }

  /** The bitmap of that name, to be used. @throws BackingError `not-found`, or `corrupt` for one that cannot be relied on */
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
   * A new one, with no bit set. The name and the granularity have been checked. @throws BackingError `exists`, `no-space`, `unsupported`
   */
  add(name: string, granularityBits: number, options: { readonly isEnabled: boolean }): void {
    const { header } = this.#header
    const refuse = (code: "exists" | "unsupported" | "no-space", message: string): BackingError =>
      new BackingError(code, message, { path: this.#file.path })
    if (header.version < 3) throw refuse("unsupported", "bitmaps need version 3 of the format; change it with amend -o compat=1.1")
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
   * Lets `work` give the disk `size` bytes, and the bitmaps as many bits as that takes.
   * @throws BackingError `unsupported` for bitmaps that the disk cannot have then, and what `work` throws
   */
  resized(size: number, work: () => void): void {
    refuseResize(this.list, { size, ...this.#place })
    refuseMoreThanMost(this.#recording.map(({ granularityBits }) => bytesFor(granularityBits, { size, ...this.#place })), this.#place)
    this.#flag(this.list)
    // All that can fail comes first: a disk of another size with bitmaps of the old one would be an image that nobody opens.
    const changes = this.list.map((bitmap) => bitmap.prepareResize(size))
    try {
      work()
    } finally {
      // A cut that fails at its end has happened.
      if (this.#header.header.size === size) {
        for (const change of changes) change()
        if (this.list.length > 0) this.#rebuild()
      }
    }
  }

  /** `work` puts another disk of `size` bytes in the place of this one: all of it may have changed. */
  replaced(size: number, work: () => void): void {
    if (size === this.#header.header.size) work()
    else this.resized(size, work)
    this.mark(0, size)
  }

  /**
   * Brings everything to the disk, where the bitmaps are consistent afterwards.
   * @throws BackingError; then it can be called again, and until then the disk has bitmaps that are marked as in use
   */
  store(parts: StoringParts): void {
    const changed = this.list.filter((bitmap) => bitmap.isUsable && bitmap.isChanged)
    const hasMarks = this.list.some((bitmap) => bitmap.flags !== bitmap.storedFlags || !bitmap.areFlagsSure)
    if (changed.length === 0 && !hasMarks && !this.#isRebuilt) return
    this.#flag(changed)
    for (const bitmap of changed) bitmap.storePages(parts)
    if (this.#isRebuilt) this.#placeDirectory(parts.allocator)
    // All that the tables and the directory refer to, and all data that the bitmaps speak of.
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

  /** Which bitmaps record from now on. */
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

  /** Stores the flags of each bitmap that has an entry on the disk: four bytes, which a crash leaves old or new. */
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

  /** Lets the header name the new directory, or none. */
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

/** `header` with that directory, or with no bitmaps. */
export function withBitmaps(
  header: Qcow2Header, directory: { readonly offset: number; readonly length: number; readonly count: number } | undefined,
): Qcow2Header {
  const others = header.extensions.filter(({ type }) => type !== EXTENSION_TYPE.BITMAPS)
  if (directory === undefined) return { ...header, extensions: others, autoclearFeatures: header.autoclearFeatures & ~AUTOCLEAR }
  const extensions = [...others, { type: EXTENSION_TYPE.BITMAPS, data: encodeBitmapsExtension(directory) }]
  return { ...header, extensions, autoclearFeatures: header.autoclearFeatures | AUTOCLEAR }
}
