/**
 * DirtyBitmap: one persistent bitmap of an open image. Recording only sets bits, so the new bits are kept apart and merged into the stored
 * ones at the end: opening reads no bits, and only pages that the guest touches take memory.
 */
import { isZero } from "../../bytes/buffers.ts"
import type { Allocator } from "../metadata/allocator.ts"
import type { ClusterFile } from "../metadata/cluster-file.ts"
import { setU64, viewOf } from "../../bytes/fields.ts"
import { BITMAP_FLAG, type BitmapEntry, type BitmapWord, decodeBitmapWord, tableEntriesFor } from "../format/bitmaps.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { MetadataMap } from "../metadata/metadata-map.ts"
import type { Refcounts } from "../metadata/refcounts.ts"
import { clearFrom, setBits } from "./bits.ts"

export interface BitmapContext {
  readonly file: ClusterFile
  readonly clusterSize: number
}

/** The parts that `storePages` needs. */
export interface BitmapStorage {
  readonly allocator: Allocator
  readonly metadata: MetadataMap
  readonly refcounts: Refcounts
}

export class DirtyBitmap {
  readonly name: string
  readonly granularityBits: number = 0
  readonly extraData: Uint8Array
  /** False if a program did not store it, or if it has unknown extra data. Then it is kept unchanged. */
  readonly isUsable: boolean
  /** Records writes. */
  isEnabled: boolean
  /** Byte of the file where its directory entry begins; undefined if it has none yet. */
  entryOffset: number | undefined
  /** The last flags that were read from that entry, or stored there. */
  storedFlags = 0
  /** False after a write of the flags whose sync has not succeeded: the file may have either value. */
  areFlagsSure = true
  tableOffset = 0
  tableEntries = 0
  /** Runs of clusters to free once the directory is stored. */
  readonly left: { readonly first: number; readonly count: number }[] = []
  readonly #file: ClusterFile
  readonly #clusterSize: number = 0
  /** The table, once it has been read. */
  #table: Uint8Array | undefined
  #isTableDirty = false
  /** Bits that were set since opening, by page. A page is one cluster of bits. */
  readonly #fresh = new Map<number, Uint8Array>()

  /** `at`: byte of the file where its directory entry begins. */
  constructor(context: BitmapContext, entry: BitmapEntry, at: number | undefined) {
    this.#file = context.file
    this.#clusterSize = context.clusterSize
    this.name = entry.name
    this.granularityBits = entry.granularityBits
    this.extraData = entry.extraData
    this.tableOffset = entry.tableOffset
    this.tableEntries = entry.tableEntries
    this.storedFlags = entry.flags
    this.entryOffset = at
    const isKnown = entry.extraData.length === 0 || (entry.flags & BITMAP_FLAG.EXTRA_DATA_COMPATIBLE) !== 0
    this.isUsable = isKnown && (entry.flags & BITMAP_FLAG.IN_USE) === 0
    this.isEnabled = (entry.flags & BITMAP_FLAG.AUTO) !== 0
    if (at === undefined) this.#table = new Uint8Array(entry.tableEntries * TABLE_ENTRY_SIZE)
    this.#isTableDirty = at === undefined
  }

  /** Bytes of the disk for each bit. */
  get granularity(): number {
    return 2 ** this.granularityBits
  }

  /** Bytes of all its bits, in whole clusters. */
  get bytes(): number {
    return this.tableEntries * this.#clusterSize
  }

  /** Whether it differs from the file. */
  get isChanged(): boolean {
    return this.#isTableDirty || this.#fresh.size > 0
  }

  /** Notes that these flags of the entry are durable. */
  flagsStored(flags: number): void {
    this.storedFlags = flags
    this.areFlagsSure = true
  }

  /** The flags to store. */
  get flags(): number {
    if (!this.isUsable) return this.storedFlags
    const kept = this.storedFlags & BITMAP_FLAG.EXTRA_DATA_COMPATIBLE
    return kept | (this.isEnabled ? BITMAP_FLAG.AUTO : 0)
  }

  get entry(): BitmapEntry {
    const { tableOffset, tableEntries, flags, granularityBits, name, extraData } = this
    return { tableOffset, tableEntries, flags, granularityBits, name, extraData }
  }

  /** Sets the bits of `length` > 0 bytes of the disk from `offset` on. */
  mark(offset: number, length: number): void {
    const { granularity } = this
    const bitsInPage = this.#clusterSize * 8
    const last = Math.floor((offset + length - 1) / granularity)
    for (let bit = Math.floor(offset / granularity); bit <= last;) {
      const page = Math.floor(bit / bitsInPage)
      const end = Math.min(last + 1, (page + 1) * bitsInPage)
      let bits = this.#fresh.get(page)
      if (bits === undefined) this.#fresh.set(page, (bits = new Uint8Array(this.#clusterSize)))
      setBits(bits, bit - page * bitsInPage, end - page * bitsInPage)
      bit = end
    }
  }

  /** Clears all bits. Their clusters are freed once the directory is stored. */
  clear(): void {
    const table = this.#readTable()
    this.#leaveData(table, 0)
    this.#table = new Uint8Array(table.length)
    this.#isTableDirty = true
    this.#fresh.clear()
  }

  /** The bits of a page; undefined if none is set. @throws CorruptMetadata, and what reading throws */
  page(index: number): Uint8Array | undefined {
    const fresh = this.#fresh.get(index)
    const word = this.#word(index)
    if (word.kind === "ones") return new Uint8Array(this.#clusterSize).fill(0xff)
    if (word.kind !== "data") return fresh
    const bits = this.#read(word.offset)
    fresh?.forEach((byte, at) => (bits[at] = (bits[at] ?? 0) | byte))
    return bits
  }

  /** Pages that may have bits. */
  get pages(): number {
    return this.tableEntries
  }

  /**
   * Prepares a resize to `size` bytes. Returns the function that does it and cannot fail: it drops bits past the end, and resizes the
   * table, which moves when the bitmap is stored. @throws CorruptMetadata, and what reading throws
   */
  prepareResize(size: number): () => void {
    const entries = tableEntriesFor(size, this.granularityBits, this.#clusterSize)
    const bits = Math.ceil(size / this.granularity)
    const table = this.#readTable()
    const end = Math.floor(bits / (this.#clusterSize * 8))
    // The page with the end of the disk keeps only the bits before the end.
    const last = end < Math.min(entries, this.tableEntries) ? this.page(end)?.slice() : undefined
    if (last !== undefined) clearFrom(last, bits - end * this.#clusterSize * 8)
    const resized = new Uint8Array(entries * TABLE_ENTRY_SIZE)
    resized.set(table.subarray(0, Math.min(end, entries) * TABLE_ENTRY_SIZE))
    return () => {
      if (end < this.tableEntries) this.#leaveData(table, end)
      for (const page of this.#fresh.keys()) if (page >= end) this.#fresh.delete(page)
      this.leaveTable()
      this.#table = resized
      this.tableEntries = entries
      this.#isTableDirty = true
      if (last !== undefined && !isZero(last)) this.#fresh.set(end, last)
    }
  }

  /** Notes that all clusters of the bitmap are to be freed. */
  leave(): void {
    this.#leaveData(this.#readTable(), 0)
    this.leaveTable()
  }

  /** Gives up the place of the table, which gets another one when it is stored. */
  leaveTable(): void {
    const { tableOffset, tableEntries } = this
    if (tableOffset !== 0) this.left.push(this.#clustersOf(tableOffset, tableEntries * TABLE_ENTRY_SIZE))
    this.tableOffset = 0
  }

  /** Writes the new bits to the file, and allocates space for a table that has none. The bitmap is already marked as in use on disk. */
  storePages(storage: BitmapStorage): void {
    const { allocator } = storage
    for (const [index, bits] of this.#fresh) {
      const word = this.#word(index)
      if (word.kind === "data") this.#storeMerged(index, word.offset, storage)
      else if (word.kind === "zeroes") this.#storeNew(index, bits, allocator)
      this.#fresh.delete(index)
    }
    if (this.tableOffset !== 0 || !this.#isTableDirty) return
    const { count } = this.#clustersOf(0, this.tableEntries * TABLE_ENTRY_SIZE)
    this.tableOffset = allocator.allocateInRow(count).first * this.#clusterSize
  }

  /** Writes the bits of page `index`, old and new, to the cluster at `offset`, or to a new one if that has other owners too. */
  #storeMerged(index: number, offset: number, { allocator, metadata, refcounts }: BitmapStorage): void {
    const merged = this.page(index)
    if (merged === undefined) return
    const other = metadata.findForData(offset, this.#clusterSize)
    if (other !== undefined) throw this.#file.corrupt(`bitmap "${this.name}" has its bits at byte ${offset}, but ${other} is there`, offset)
    if (refcounts.get(offset / this.#clusterSize) <= 1) return this.#file.write(merged, offset)
    // The old one keeps its refcount, a leak: the entry of the other owner says that it is shared.
    this.#storeNew(index, merged, allocator)
  }

  #storeNew(index: number, bits: Uint8Array, allocator: Allocator): void {
    const { first } = allocator.allocate(1)
    try {
      this.#file.write(bits, first * this.#clusterSize)
    } catch (error) {
      allocator.release(first, 1)
      throw error
    }
    this.#setWord(index, first * this.#clusterSize)
  }

  /** Writes a table that has changed. Everything that it refers to is durable. */
  storeTable(): void {
    if (this.#table !== undefined && this.#isTableDirty) this.#file.write(this.#table, this.tableOffset)
  }

  /** Notes that the table of `storeTable` is durable. */
  tableStored(): void {
    this.#isTableDirty = false
  }

  #readTable(): Uint8Array {
    if (this.#table !== undefined) return this.#table
    const table = new Uint8Array(this.tableEntries * TABLE_ENTRY_SIZE)
    this.#file.read(table, this.tableOffset)
    return (this.#table = table)
  }

  #word(index: number): BitmapWord {
    const view = viewOf(this.#readTable())
    const at = index * TABLE_ENTRY_SIZE
    if (at >= view.byteLength) return { kind: "zeroes" }
    const word = decodeBitmapWord(view.getUint32(at), view.getUint32(at + 4), this.#clusterSize)
    if (word.kind !== "corrupt") return word
    throw this.#file.corrupt(`entry ${index} of the table of bitmap "${this.name}" is invalid`, this.tableOffset + at)
  }

  #setWord(index: number, offset: number): void {
    setU64(viewOf(this.#readTable()), index * TABLE_ENTRY_SIZE, offset)
    this.#isTableDirty = true
  }

  #read(offset: number): Uint8Array {
    const bits = new Uint8Array(this.#clusterSize)
    this.#file.read(bits, offset)
    return bits
  }

  /** Notes that the clusters of bits from page `from` on are to be freed. */
  #leaveData(table: Uint8Array, from: number): void {
    const view = viewOf(table)
    for (let at = from * TABLE_ENTRY_SIZE; at < table.length; at += TABLE_ENTRY_SIZE) {
      const word = decodeBitmapWord(view.getUint32(at), view.getUint32(at + 4), this.#clusterSize)
      if (word.kind === "data") this.left.push(this.#clustersOf(word.offset, this.#clusterSize))
    }
  }

  #clustersOf(offset: number, length: number): { readonly first: number; readonly count: number } {
    return { first: offset / this.#clusterSize, count: Math.ceil(length / this.#clusterSize) }
  }
}
