/**
 * Writes guest bytes: in place where the cluster is this disk's alone, into a new cluster otherwise, with what the guest does not write
 * filled in from where it was before. The entry changes, in memory, only after the data is in the file: an error leaves the old content.
 */
import type { Allocator } from "./metadata/allocator.ts"
import { BufferCursor } from "../buffers.ts"
import type { ClusterFile } from "./metadata/cluster-file.ts"
import { Extent } from "./metadata/extent.ts"
import { L2_KIND } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { GuestData } from "./guest-data.ts"
import type { Mapping } from "./metadata/mapping.ts"
import type { MetadataWriter } from "./metadata/metadata-writer.ts"
import type { MetadataMap } from "./metadata/metadata-map.ts"
import type { Reader } from "./reader.ts"
import type { CachedTable } from "./metadata/table-cache.ts"

export interface WriterOptions {
  readonly file: ClusterFile
  readonly data: GuestData
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly reader: Reader
  readonly allocator: Allocator
  readonly metadata: MetadataMap
  readonly metadataWriter: MetadataWriter
}

/** A piece of a write that goes to new or stale clusters, contiguous in the file. */
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

/** The part of a cluster that the guest does not write: at the start of the first one, or at the end of the last one. */
interface UnwrittenPart {
  /** Entry of the cluster, and its host byte. */
  readonly index: number
  readonly host: number
  /** Guest byte where the part begins. */
  readonly offset: number
  readonly length: number
}

const NOTHING = new Uint8Array(0)

/** A buffer of a cluster's size, made when it is first needed. */
class Scratch {
  readonly #size: number
  #bytes = NOTHING

  constructor(size: number) {
    this.#size = size
  }

  take(length: number): Uint8Array {
    if (this.#bytes.length === 0) this.#bytes = new Uint8Array(this.#size)
    return this.#bytes.subarray(0, length)
  }
}

export class Writer {
  readonly #file: ClusterFile
  readonly #data: GuestData
  readonly #geometry: Geometry
  readonly #mapping: Mapping
  readonly #reader: Reader
  readonly #allocator: Allocator
  readonly #metadata: MetadataMap
  readonly #metadataWriter: MetadataWriter
  readonly #zeroes: Uint8Array
  readonly #extent = new Extent()
  readonly #head: Scratch
  readonly #tail: Scratch

  constructor(options: WriterOptions) {
    this.#file = options.file
    this.#data = options.data
    this.#geometry = options.geometry
    this.#mapping = options.mapping
    this.#reader = options.reader
    this.#allocator = options.allocator
    this.#metadata = options.metadata
    this.#metadataWriter = options.metadataWriter
    this.#zeroes = new Uint8Array(options.geometry.clusterSize)
    this.#head = new Scratch(options.geometry.clusterSize)
    this.#tail = new Scratch(options.geometry.clusterSize)
  }

  /** Stores `buffer[start .. start + length)` at guest byte `offset`. */
  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    const host = this.#findInPlace(offset, length)
    if (host >= 0 && this.#extent.length === length) this.#data.writeFrom(buffer, start, length, host, offset)
    else this.#writePieces([new Uint8Array(buffer.buffer, buffer.byteOffset + start, length)], offset, length, host)
  }

  /** Stores `buffers`, `length` bytes in all, at guest byte `offset`. */
  write(buffers: readonly Uint8Array[], offset: number, length: number): void {
    const host = this.#findInPlace(offset, length)
    if (host >= 0 && this.#extent.length === length) this.#data.writev(buffers, host, length, offset)
    else this.#writePieces(buffers, offset, length, host)
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

  #readsZero(offset: number): boolean {
    const cluster = this.#mapping.clusterOf(offset)
    const l1Index = this.#mapping.tableOf(cluster)
    const table = this.#mapping.table(l1Index)
    const kind = table === undefined ? L2_KIND.UNALLOCATED : this.#mapping.l2.kind(table, cluster - l1Index * this.#geometry.l2Entries)
    return this.#reader.isZero(kind, offset)
  }

  /** `Mapping.findInPlace`, and no guest data onto metadata, whatever an L2 entry claims (QC-OVL-01). Fills `#extent`. */
  #findInPlace(offset: number, length: number): number {
    const host = this.#mapping.findInPlace(offset, length, this.#extent)
    if (host >= 0) this.#protect(host, this.#extent.length)
    return host
  }

  /** `first` and `#extent` are what `#findInPlace` says of the first piece. */
  #writePieces(buffers: readonly Uint8Array[], offset: number, length: number, first: number): void {
    if (length === 0) return
    const cursor = new BufferCursor(buffers)
    let host = first
    for (let done = 0; ;) {
      if (host >= 0) {
        const piece = this.#extent.length
        this.#data.writev(cursor.take(piece), host, piece, offset + done)
        done += piece
      } else done += this.#writeElsewhere(cursor, offset + done, length - done)
      if (done === length) return
      host = this.#findInPlace(offset + done, length - done)
    }
  }

  /**
   * Writes what goes to new clusters, or to one that is kept as reading zeroes. Returns how many bytes: 0 when it can be written in place
   * by now.
   */
  #writeElsewhere(cursor: BufferCursor, offset: number, length: number): number {
    this.#metadataWriter.makeRoom()
    const { l2 } = this.#mapping
    const { clusterSize, l2Entries } = this.#geometry
    const cluster = this.#mapping.clusterOf(offset)
    const l1Index = this.#mapping.tableOf(cluster)
    const table = this.#mapping.tableForWrite(l1Index)
    const index = cluster - l1Index * l2Entries
    const piece: Piece = { table, index, within: offset - cluster * clusterSize, offset, length }
    const kind = l2.kind(table, index)
    if (kind === L2_KIND.CORRUPT) throw this.#mapping.corruptEntry(table, index)
    if (l2.isCopied(table, index)) {
      // The table was not this disk's own when `#findInPlace` looked, and is now.
      if (kind === L2_KIND.NORMAL) return 0
      if (kind === L2_KIND.ZERO_ALLOCATED) return this.#writeIntoZeroed(cursor, piece, l2.host(table, index))
    }
    return this.#writeNew(cursor, piece)
  }

  /** The cluster reads as zeroes but has a place, whose content is stale: all of it has to be written (QC-L2-03). */
  #writeIntoZeroed(cursor: BufferCursor, piece: Piece, host: number): number {
    const length = Math.min(piece.length, this.#geometry.clusterSize - piece.within)
    this.#protect(host, this.#geometry.clusterSize)
    this.#store(cursor, { ...piece, length }, host)
    this.#mapping.l2.setNormal(piece.table, piece.index, host)
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
    for (let step = 0; step < count; step++) this.#mapping.replace(piece.table, piece.index + step, (first + step) * clusterSize)
    return length
  }

  /** Whether a write to entry `index` needs a new cluster, whatever is there now. */
  #needsNew(table: CachedTable, index: number): boolean {
    const { l2 } = this.#mapping
    const kind = l2.kind(table, index)
    if (kind === L2_KIND.NORMAL || kind === L2_KIND.ZERO_ALLOCATED) return !l2.isCopied(table, index)
    return kind !== L2_KIND.CORRUPT
  }

  /**
   * Writes a piece to the clusters from host byte `host`, together with what the guest leaves of the first and the last of them. Where both
   * the old content and the new place are zeroes, nothing is filled in: a hole in the file is enough.
   */
  #store(cursor: BufferCursor, piece: Piece, host: number): void {
    const { clusterSize } = this.#geometry
    const { table, index, within, offset, length } = piece
    const clusters = Math.ceil((within + length) / clusterSize)
    const last = { index: index + clusters - 1, host: host + (clusters - 1) * clusterSize }
    const tailLength = clusters * clusterSize - within - length
    // Read before the cursor moves on and before anything is claimed: an error here leaves nothing to undo but the allocation.
    const head = this.#fill(table, { index, host, offset: offset - within, length: within }, this.#head)
    const tail = this.#fill(table, { ...last, offset: offset + length, length: tailLength }, this.#tail)
    const parts: Uint8Array[] = []
    if (head.length > 0) parts.push(head)
    cursor.append(parts, length)
    if (tail.length > 0) parts.push(tail)
    // What stays a hole is in use now as well: the next owner of these clusters must not take it for untouched.
    this.#data.claim(host + clusters * clusterSize)
    this.#data.writev(parts, host + within - head.length, head.length + length + tail.length, offset - head.length)
  }

  /** What must be written to the part of a cluster that the guest does not write: its old content, or nothing where zeroes stay a hole. */
  #fill(table: CachedTable, part: UnwrittenPart, scratch: Scratch): Uint8Array {
    const kind = this.#mapping.l2.kind(table, part.index)
    const isZero = this.#reader.isZero(kind, part.offset)
    if (part.length === 0 || (isZero && this.#data.isUnused(part.host))) return NOTHING
    if (isZero) return this.#zeroes.subarray(0, part.length)
    const content = scratch.take(part.length)
    this.#reader.readInto(content, 0, part.length, part.offset)
    return content
  }

  #protect(host: number, length: number): void {
    const other = this.#metadata.findForData(host, length)
    if (other !== undefined) throw this.#file.corrupt(`an L2 entry names byte ${host} as guest data, but ${other} is there`, host)
  }
}
