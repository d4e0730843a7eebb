/**
 * Writes guest bytes: in place if the disk has the cluster to itself, otherwise into a new cluster, which also gets the old bytes around
 * the written ones. The entry changes, in memory, only after the data is in the file: an error leaves the old content.
 */
import { BufferCursor } from "../bytes/buffers.ts"
import type { ClusterFile } from "./metadata/cluster-file.ts"
import type { DataClusters } from "./metadata/data-clusters.ts"
import { Extent } from "./metadata/extent.ts"
import type { SubclusterRange } from "./metadata/l2-view.ts"
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
  readonly clusters: DataClusters
  /** The metadata that guest data must not overwrite. Undefined for an external data file, which holds none. */
  readonly metadata: MetadataMap | undefined
  readonly metadataWriter: MetadataWriter
}

/** A piece of a write that goes to new or stale clusters, contiguous in the file. */
interface Piece {
  readonly table: CachedTable
  /** Entry of its first cluster. */
  readonly index: number
  /** Byte in the first cluster where it starts. */
  readonly within: number
  /** Guest byte where it starts. */
  readonly offset: number
  readonly length: number
}

/** The bytes to store for a piece, aligned to subclusters, counted from the start of its first cluster. `to` is exclusive. */
interface StoredRange {
  readonly from: number
  readonly to: number
}

const NOTHING = new Uint8Array(0)

/** A buffer of one cluster, allocated at its first use. */
class Scratch {
  readonly #size: number = 0
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
  readonly #clusters: DataClusters
  readonly #metadata: MetadataMap | undefined
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
    this.#clusters = options.clusters
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
    const { subclusterSize } = this.#geometry
    for (let done = 0; done < length;) {
      const at = offset + done
      const piece = Math.min(length - done, subclusterSize - (at % subclusterSize))
      if (!this.#reader.holdsZeroes(at, piece)) this.write([this.#zeroes.subarray(0, piece)], at, piece)
      done += piece
    }
  }

  /** `Mapping.findInPlace`, but refuses an L2 entry that names metadata (QC-OVL-01). Fills `#extent`. */
  #findInPlace(offset: number, length: number): number {
    const host = this.#mapping.findInPlace(offset, length, this.#extent)
    if (host >= 0) this.#protect(host, this.#extent.length)
    return host
  }

  /** `first` and `#extent` are the result of `#findInPlace` for the first piece. */
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
   * Writes to new clusters, or to an allocated cluster that is marked as zeroes. Returns the number of bytes: 0 if they can be written in
   * place by now.
   */
  #writeElsewhere(cursor: BufferCursor, offset: number, length: number): number {
    this.#metadataWriter.makeRoom()
    const { l2 } = this.#mapping
    const { clusterSize } = this.#geometry
    const cluster = this.#mapping.clusterOf(offset)
    const table = this.#mapping.tableForWrite(this.#mapping.tableOf(cluster))
    const index = this.#mapping.indexOf(cluster)
    const piece: Piece = { table, index, within: offset - cluster * clusterSize, offset, length }
    const kind = l2.kind(table, index, Math.floor(piece.within / this.#geometry.subclusterSize))
    if (kind === L2_KIND.CORRUPT) throw this.#mapping.corruptEntry(table, index)
    if (!l2.hasOwnPlace(table, index)) return this.#writeNew(cursor, piece)
    // A snapshot shared the table when `#findInPlace` looked; `tableForWrite` has copied it since.
    if (kind === L2_KIND.NORMAL) return 0
    return this.#writeIntoPlace(cursor, piece, l2.host(table, index))
  }

  /** Writes to an allocated cluster, beginning in a subcluster of stale content, which has to be written whole (QC-L2-03, QC-EL2-07). */
  #writeIntoPlace(cursor: BufferCursor, piece: Piece, host: number): number {
    const { l2 } = this.#mapping
    const { clusterSize, subclusterSize } = this.#geometry
    const { table, index, within } = piece
    const length = Math.min(piece.length, clusterSize - within)
    const subclusters = this.#subclustersOf(within, within + length)
    const endsInPlace = l2.kind(table, index, subclusters.to - 1) === L2_KIND.NORMAL
    this.#protect(host, clusterSize)
    const to = endsInPlace ? within + length : subclusters.to * subclusterSize
    this.#store(cursor, { ...piece, length }, host, { from: subclusters.from * subclusterSize, to })
    l2.setNormal(table, index, host, subclusters.from, subclusters.to)
    return length
  }

  /** The subclusters that contain bytes `from` to `to` of a cluster. */
  #subclustersOf(from: number, to: number): SubclusterRange {
    const { subclusterSize } = this.#geometry
    return { from: Math.floor(from / subclusterSize), to: Math.ceil(to / subclusterSize) }
  }

  #writeNew(cursor: BufferCursor, piece: Piece): number {
    const { clusterSize, l2Entries, subclusters, subclusterSize } = this.#geometry
    const { table, index, within } = piece
    const wanted = Math.min(Math.ceil((within + piece.length) / clusterSize), l2Entries - index)
    let most = wanted > 1 ? 1 + this.#mapping.l2.emptyEntries(table, index + 1, wanted - 1) : 1
    while (most < wanted && this.#needsNew(table, index + most)) most++
    const { first, count } = this.#clusters.allocate(most, (piece.offset - within) / clusterSize)
    const length = Math.min(piece.length, count * clusterSize - within)
    const last = count - 1
    const written = this.#subclustersOf(within, within + length)
    const from = Math.min(written.from, this.#mapping.l2.firstToCopy(table, index))
    const to = Math.max(written.to - last * subclusters, this.#mapping.l2.endToCopy(table, index + last))
    try {
      const stored = { from: from * subclusterSize, to: last * clusterSize + to * subclusterSize }
      this.#store(cursor, { ...piece, length }, first * clusterSize, stored)
    } catch (error) {
      this.#clusters.release(first, count)
      throw error
    }
    for (let step = 0; step < count; step++) {
      const range = { from: step === 0 ? from : 0, to: step === last ? to : subclusters }
      this.#mapping.replace(table, index + step, (first + step) * clusterSize, range)
    }
    return length
  }

  /** Whether a write to entry `index` needs a new cluster. */
  #needsNew(table: CachedTable, index: number): boolean {
    const { l2 } = this.#mapping
    return l2.kind(table, index, 0) !== L2_KIND.CORRUPT && !l2.hasOwnPlace(table, index)
  }

  /**
   * Writes a piece to the clusters from host byte `host`, together with the old bytes of the rest of the range. If both the old content and
   * the new place are zeroes, a hole in the file is enough.
   */
  #store(cursor: BufferCursor, piece: Piece, host: number, { from, to }: StoredRange): void {
    const { clusterSize } = this.#geometry
    const { within, offset, length } = piece
    const end = within + length
    // A data file gets no bytes past the end of the disk, because its size is the size of the disk (QC-DF-07).
    const most = this.#geometry.hasDataFile ? this.#geometry.size - offset - length : to - end
    // Read before the cursor moves and before `claim`: after an error only the allocation has to be undone.
    const head = this.#fill(offset - within + from, within - from, host + from, this.#head)
    const tail = this.#fill(offset + length, Math.min(most, to - end), host + end, this.#tail)
    const parts: Uint8Array[] = []
    if (head.length > 0) parts.push(head)
    cursor.append(parts, length)
    if (tail.length > 0) parts.push(tail)
    // Also claims the part that stays a hole: the next owner of these clusters must not take it for unused.
    this.#data.claim(host + Math.ceil(end / clusterSize) * clusterSize)
    this.#data.writev(parts, host + within - head.length, head.length + length + tail.length, offset - head.length)
  }

  /**
   * The old content of `length` guest bytes from `offset`, to be copied to host byte `host`. Empty if they are zeroes that can stay a hole.
   */
  #fill(offset: number, length: number, host: number, scratch: Scratch): Uint8Array {
    if (length <= 0) return NOTHING
    if (this.#reader.holdsZeroes(offset, length)) return this.#data.isUnused(host) ? NOTHING : this.#zeroes.subarray(0, length)
    const content = scratch.take(length)
    this.#reader.readInto(content, 0, length, offset)
    return content
  }

  #protect(host: number, length: number): void {
    const other = this.#metadata?.findForData(host, length)
    if (other !== undefined) throw this.#file.corrupt(`an L2 entry names byte ${host} as guest data, but ${other} is there`, host)
  }
}
