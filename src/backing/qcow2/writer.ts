/**
 * Writes guest bytes: in place where the cluster is this disk's alone, into a new cluster otherwise, with what the guest does not write filled
 * in from where it was before. The entry changes, in memory, only after the data is in the file: an error leaves the old content.
 */
import type { Allocator } from "./allocator.ts"
import { BufferCursor } from "./buffers.ts"
import type { ClusterFile } from "./cluster-file.ts"
import { compressedLength, compressedOffset, encodeEntry, hostOffset, isCopied, L2_KIND, type L2Kind, l2Kind } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { Mapping } from "./mapping.ts"
import type { MetadataWriter } from "./metadata-writer.ts"
import type { MetadataMap } from "./metadata-map.ts"
import type { Reader } from "./reader.ts"
import type { CorruptionReporter } from "./refcounts.ts"
import { TABLE_ENTRY_SIZE } from "./format/spec.ts"
import type { CachedTable } from "./table-cache.ts"

export interface WriterOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly reader: Reader
  readonly allocator: Allocator
  readonly metadata: MetadataMap
  readonly metadataWriter: MetadataWriter
  readonly corrupt: CorruptionReporter
}

/** A piece of a write that goes to contiguous host clusters. */
interface Piece {
  readonly table: CachedTable
  /** Entry of its first cluster. */
  readonly index: number
  /** Where it starts in the first cluster. */
  readonly within: number
  /** Guest byte where it starts. */
  readonly offset: number
  readonly length: number
}

export class Writer {
  readonly #file: ClusterFile
  readonly #geometry: Geometry
  readonly #mapping: Mapping
  readonly #reader: Reader
  readonly #allocator: Allocator
  readonly #metadata: MetadataMap
  readonly #metadataWriter: MetadataWriter
  readonly #corrupt: CorruptionReporter
  readonly #zeroes: Uint8Array
  #head = new Uint8Array(0)
  #tail = new Uint8Array(0)

  constructor(options: WriterOptions) {
    this.#file = options.file
    this.#geometry = options.geometry
    this.#mapping = options.mapping
    this.#reader = options.reader
    this.#allocator = options.allocator
    this.#metadata = options.metadata
    this.#metadataWriter = options.metadataWriter
    this.#corrupt = options.corrupt
    this.#zeroes = new Uint8Array(options.geometry.clusterSize)
  }

  /** Stores `buffer` at guest byte `offset`. */
  writeOne(buffer: Uint8Array, offset: number): void {
    const host = this.#mapping.hostOf(offset, buffer.length, "write")
    if (host < 0) {
      this.write([buffer], offset, buffer.length)
      return
    }
    this.#protect(host, buffer.length)
    this.#file.write(buffer, host)
  }

  /** Stores `buffers`, `length` bytes in all, at guest byte `offset`. */
  write(buffers: readonly Uint8Array[], offset: number, length: number): void {
    const host = this.#ownPlace(offset, length)
    if (host >= 0) {
      this.#protect(host, length)
      this.#file.writev(buffers, host, length)
      return
    }
    const cursor = new BufferCursor(buffers)
    for (let done = 0; done < length;) done += this.#writeStep(cursor, offset + done, length - done)
  }

  /** Makes `length` guest bytes zero by writing zeroes, except where they are zero already. */
  writeZeroes(offset: number, length: number): void {
    const { clusterSize } = this.#geometry
    for (let done = 0; done < length;) {
      const at = offset + done
      const piece = Math.min(length - done, clusterSize - (at - this.#mapping.clusterOf(at) * clusterSize))
      if (!this.#readsZero(at)) this.write([this.#zeroes.subarray(0, piece)], at, piece)
      done += piece
    }
  }

  /** Drops the reference of an L2 entry that has just been replaced. */
  releaseEntry(hi: number, lo: number): void {
    const { clusterSize } = this.#geometry
    const kind = l2Kind(hi, lo, this.#geometry)
    if (kind === L2_KIND.NORMAL || kind === L2_KIND.ZERO_ALLOCATED) this.#allocator.releaseLater(hostOffset(hi, lo) / clusterSize, 1)
    if (kind !== L2_KIND.COMPRESSED) return
    // Every host cluster that the sectors touch counts the compressed cluster once (QC-CMP-09, QC-CMP-10).
    const start = compressedOffset(hi, lo, this.#geometry)
    const first = Math.floor(start / clusterSize)
    const last = Math.floor((start + compressedLength(hi, lo, this.#geometry) - 1) / clusterSize)
    this.#allocator.releaseLater(first, last - first + 1)
  }

  /** Host byte for the whole range when all of it can be written in place and in one piece, or -1. */
  #ownPlace(offset: number, length: number): number {
    const { clusterSize, l2Entries } = this.#geometry
    const cluster = this.#mapping.clusterOf(offset)
    const l1Index = this.#mapping.tableOf(cluster)
    const table = this.#mapping.ownTable(l1Index)
    if (table === undefined) return -1
    let index = cluster - l1Index * l2Entries
    const hi = table.view.getUint32(index * TABLE_ENTRY_SIZE)
    const lo = table.view.getUint32(index * TABLE_ENTRY_SIZE + 4)
    if (!isCopied(hi) || l2Kind(hi, lo, this.#geometry) !== L2_KIND.NORMAL) return -1
    const within = offset - cluster * clusterSize
    const host = hostOffset(hi, lo)
    for (let found = clusterSize; found < within + length; found += clusterSize) {
      if (++index === l2Entries || !this.#isOwnAt(table, index, host + found)) return -1
    }
    return host + within
  }

  #readsZero(offset: number): boolean {
    const cluster = this.#mapping.clusterOf(offset)
    const l1Index = this.#mapping.tableOf(cluster)
    const table = this.#mapping.table(l1Index)
    const kind = table === undefined ? L2_KIND.UNALLOCATED : this.#kind(table, cluster - l1Index * this.#geometry.l2Entries)
    return this.#reader.isZero(kind, offset)
  }

  /** Writes as much as goes to contiguous host clusters, and returns how much that is. */
  #writeStep(cursor: BufferCursor, offset: number, length: number): number {
    if (this.#metadataWriter.isCrowded) this.#metadataWriter.flush()
    const { clusterSize, l2Entries } = this.#geometry
    const cluster = this.#mapping.clusterOf(offset)
    const l1Index = this.#mapping.tableOf(cluster)
    const index = cluster - l1Index * l2Entries
    const within = offset - cluster * clusterSize
    const table = this.#mapping.tableForWrite(l1Index)
    const hi = table.view.getUint32(index * TABLE_ENTRY_SIZE)
    const lo = table.view.getUint32(index * TABLE_ENTRY_SIZE + 4)
    const kind = l2Kind(hi, lo, this.#geometry)
    if (kind === L2_KIND.CORRUPT) throw this.#mapping.corruptEntry(table, index)
    const piece: Piece = { table, index, within, offset, length }
    if (!isCopied(hi) || (kind !== L2_KIND.NORMAL && kind !== L2_KIND.ZERO_ALLOCATED)) return this.#writeNew(cursor, piece)
    if (kind === L2_KIND.NORMAL) return this.#writeInPlace(cursor, piece, hostOffset(hi, lo))
    return this.#writeIntoZeroed(cursor, piece, hostOffset(hi, lo))
  }

  #writeInPlace(cursor: BufferCursor, piece: Piece, host: number): number {
    const { clusterSize, l2Entries } = this.#geometry
    let found = clusterSize - piece.within
    let index = piece.index + 1
    while (found < piece.length && index < l2Entries && this.#isOwnAt(piece.table, index, host + piece.within + found)) {
      found += clusterSize
      index++
    }
    const length = Math.min(found, piece.length)
    this.#protect(host + piece.within, length)
    this.#file.writev(cursor.take(length), host + piece.within, length)
    return length
  }

  /** Whether entry `index` is a normal cluster of this disk alone at host byte `host`. */
  #isOwnAt(table: CachedTable, index: number, host: number): boolean {
    const hi = table.view.getUint32(index * TABLE_ENTRY_SIZE)
    const lo = table.view.getUint32(index * TABLE_ENTRY_SIZE + 4)
    return isCopied(hi) && l2Kind(hi, lo, this.#geometry) === L2_KIND.NORMAL && hostOffset(hi, lo) === host
  }

  /** The cluster reads as zeroes but has a place, whose content is stale: all of it has to be written (QC-L2-03). */
  #writeIntoZeroed(cursor: BufferCursor, piece: Piece, host: number): number {
    const length = Math.min(piece.length, this.#geometry.clusterSize - piece.within)
    this.#protect(host, this.#geometry.clusterSize)
    this.#store(cursor, { ...piece, length }, host)
    const entry = encodeEntry({ offset: host, copied: true })
    this.#mapping.setEntry(piece.table, piece.index, entry.hi, entry.lo)
    return length
  }

  #writeNew(cursor: BufferCursor, piece: Piece): number {
    const { clusterSize, l2Entries } = this.#geometry
    const wanted = Math.min(Math.ceil((piece.within + piece.length) / clusterSize), l2Entries - piece.index)
    let most = 1
    while (most < wanted && this.#needsNew(piece.table, piece.index + most)) most++
    const { first, count } = this.#allocator.allocate(most)
    const length = Math.min(piece.length, count * clusterSize - piece.within)
    try {
      this.#store(cursor, { ...piece, length }, first * clusterSize)
    } catch (error) {
      this.#allocator.release(first, count)
      throw error
    }
    for (let step = 0; step < count; step++) this.#replace(piece.table, piece.index + step, (first + step) * clusterSize)
    return length
  }

  /** Whether a write to entry `index` needs a new cluster, whatever is there now. */
  #needsNew(table: CachedTable, index: number): boolean {
    const kind = this.#kind(table, index)
    if (kind === L2_KIND.NORMAL || kind === L2_KIND.ZERO_ALLOCATED) return !isCopied(table.view.getUint32(index * TABLE_ENTRY_SIZE))
    return kind !== L2_KIND.CORRUPT
  }

  #kind(table: CachedTable, index: number): L2Kind {
    return l2Kind(table.view.getUint32(index * TABLE_ENTRY_SIZE), table.view.getUint32(index * TABLE_ENTRY_SIZE + 4), this.#geometry)
  }

  #replace(table: CachedTable, index: number, host: number): void {
    const hi = table.view.getUint32(index * TABLE_ENTRY_SIZE)
    const lo = table.view.getUint32(index * TABLE_ENTRY_SIZE + 4)
    const entry = encodeEntry({ offset: host, copied: true })
    this.#mapping.setEntry(table, index, entry.hi, entry.lo)
    this.releaseEntry(hi, lo)
  }

  /**
   * Writes a piece to the clusters from host byte `host`, together with what the guest leaves of the first and the last of them. Where both the
   * old content and the new place are zeroes, nothing is filled in: a hole in the file is enough.
   */
  #store(cursor: BufferCursor, piece: Piece, host: number): void {
    const { clusterSize } = this.#geometry
    const end = piece.within + piece.length
    const clusters = Math.ceil(end / clusterSize)
    const lastIndex = piece.index + clusters - 1
    const lastHost = host + (clusters - 1) * clusterSize
    const headLength = this.#needsFill(piece.table, piece.index, piece.offset - piece.within, host) ? piece.within : 0
    const tailOffset = piece.offset + piece.length
    const tailLength = this.#needsFill(piece.table, lastIndex, tailOffset, lastHost) ? clusters * clusterSize - end : 0
    const parts: Uint8Array[] = []
    if (headLength > 0) {
      if (this.#head.length === 0) this.#head = new Uint8Array(clusterSize)
      parts.push(this.#oldContent(this.#head.subarray(0, headLength), piece.offset - headLength, this.#kind(piece.table, piece.index)))
    }
    // Read before the cursor moves on and before anything is claimed: an error here leaves nothing to undo but the allocation.
    let tail: Uint8Array | undefined
    if (tailLength > 0) {
      if (this.#tail.length === 0) this.#tail = new Uint8Array(clusterSize)
      tail = this.#oldContent(this.#tail.subarray(0, tailLength), tailOffset, this.#kind(piece.table, lastIndex))
    }
    cursor.append(parts, piece.length)
    if (tail !== undefined) parts.push(tail)
    // Also what stays a hole is in use now: the next owner of these clusters must not take it for untouched.
    this.#file.claim(host + clusters * clusterSize)
    this.#file.writev(parts, host + piece.within - headLength, headLength + piece.length + tailLength)
  }

  /** Whether the part of a cluster that the guest does not write, from guest byte `offset` on, has to be written at `host` all the same. */
  #needsFill(table: CachedTable, index: number, offset: number, host: number): boolean {
    return !(this.#file.isUnused(host) && this.#reader.isZero(this.#kind(table, index), offset))
  }

  #oldContent(scratch: Uint8Array, offset: number, kind: L2Kind): Uint8Array {
    if (this.#reader.isZero(kind, offset)) return this.#zeroes.subarray(0, scratch.length)
    this.#reader.readOne(scratch, offset)
    return scratch
  }

  /** No guest data onto metadata, whatever an L2 entry claims (QC-OVL-01). */
  #protect(host: number, length: number): void {
    const other = this.#metadata.findForData(host, length)
    if (other !== undefined) throw this.#corrupt(`an L2 entry names byte ${host} as guest data, but ${other} is there`, host)
  }
}
