/**
 * What of the file is metadata, asked before every write: no guest data may land on it, whatever an L2 entry or a refcount claims.
 * Counts as metadata: the header, the active L1 and L2 tables, refcount table and blocks, the snapshot table and the snapshots' L1 tables.
 */

interface Range {
  readonly start: number
  readonly end: number
  readonly name: string
}

/** Fewest and most bits of a filter: 8 KiB to 8 MiB. In between, so many bits for each cluster that is listed that few others share one. */
const FEWEST_BITS = 2 ** 16
const MOST_BITS = 2 ** 26
const BITS_PER_MEMBER = 256

/** A contiguous structure of the file: bytes, and what to call it in a message. */
export interface MetadataRange {
  readonly offset: number
  readonly length: number
  readonly name: string
}

/** Where the single metadata clusters of one kind are listed: the L1 table for L2 tables, the refcount table for refcount blocks. */
export interface ClusterList {
  /** Whether the list names this host cluster. Walks the list. */
  contains(cluster: number): boolean
  /** Calls `visit` for each host cluster in the list. */
  forEach(visit: (cluster: number) => void): void
}

/**
 * Answers quickly whether a list names a cluster: a bitmap over cluster number modulo its size. A clear bit is a sure no; a set bit is confirmed by
 * walking the list, so clusters that share a bit, and clusters that have left the list, cost time but not truth.
 */
class ClusterFilter {
  readonly #list: ClusterList
  #bits = new Uint32Array(0)
  #size = 0
  #members = 0

  constructor(list: ClusterList) {
    this.#list = list
  }

  /** Takes over the list as it is now. */
  build(): void {
    this.#members = 0
    this.#list.forEach(() => this.#members++)
    this.#size = FEWEST_BITS
    while (this.#size < this.#members * BITS_PER_MEMBER && this.#size < MOST_BITS) this.#size *= 2
    this.#bits = new Uint32Array(this.#size / 32)
    this.#list.forEach((cluster) => this.#set(cluster))
  }

  /** A cluster has joined the list. */
  add(cluster: number): void {
    this.#members++
    if (this.#members * BITS_PER_MEMBER > this.#size * 2 && this.#size < MOST_BITS) this.build()
    else this.#set(cluster)
  }

  has(cluster: number): boolean {
    // Exact for any cluster number: `&` takes it modulo 2^32, and the size is a smaller power of two. A remainder of doubles costs ten times as much.
    const bit = cluster & (this.#size - 1)
    return ((this.#bits[bit >>> 5] ?? 0) & (1 << (bit & 31))) !== 0 && this.#list.contains(cluster)
  }

  #set(cluster: number): void {
    const bit = cluster & (this.#size - 1)
    this.#bits[bit >>> 5] = (this.#bits[bit >>> 5] ?? 0) | (1 << (bit & 31))
  }
}

export class MetadataMap {
  readonly #clusterSize: number
  readonly #l2Tables: ClusterFilter
  readonly #refcountBlocks: ClusterFilter
  /** Sorted by start. */
  #ranges: Range[] = []
  /** For each range, the one that reaches furthest among it and those before. */
  #furthest: Range[] = []
  /** Where the last range ends: most data lies beyond. */
  #rangesEnd = 0

  constructor(clusterSize: number, lists: { readonly l2Tables: ClusterList; readonly refcountBlocks: ClusterList }) {
    this.#clusterSize = clusterSize
    this.#l2Tables = new ClusterFilter(lists.l2Tables)
    this.#refcountBlocks = new ClusterFilter(lists.refcountBlocks)
  }

  /** Reads the lists. */
  build(): void {
    this.#l2Tables.build()
    this.#refcountBlocks.build()
  }

  /** Adds contiguous structures; their lengths are rounded up to whole clusters. */
  addRanges(ranges: readonly MetadataRange[]): void {
    for (const { offset, length, name } of ranges) {
      if (length > 0) this.#ranges.push({ start: offset, end: offset + Math.ceil(length / this.#clusterSize) * this.#clusterSize, name })
    }
    this.#sort()
  }

  /** Removes the range that starts there and has this name. */
  removeRange({ offset, name }: MetadataRange): void {
    this.#ranges = this.#ranges.filter((range) => range.start !== offset || range.name !== name)
    this.#sort()
  }

  /** Two ranges that share a cluster, or undefined. */
  findCollision(): readonly [string, string] | undefined {
    for (let index = 1; index < this.#ranges.length; index++) {
      const range = this.#ranges[index]
      const before = this.#furthest[index - 1]
      if (range !== undefined && before !== undefined && before.end > range.start) return [before.name, range.name]
    }
    return undefined
  }

  addL2Table(offset: number): void {
    this.#l2Tables.add(offset / this.#clusterSize)
  }

  addRefcountBlock(offset: number): void {
    this.#refcountBlocks.add(offset / this.#clusterSize)
  }

  /** What guest data of `length` bytes at host byte `offset` would destroy, or undefined. */
  findForData(offset: number, length: number): string | undefined {
    const first = Math.floor(offset / this.#clusterSize)
    const end = Math.ceil((offset + length) / this.#clusterSize)
    return this.#findRange(first * this.#clusterSize, end * this.#clusterSize) ?? this.#findTable(first, end)
  }

  /** What else than an L2 table the L2 table at `offset` is, or undefined. */
  findForL2Table(offset: number): string | undefined {
    return this.#findRange(offset, offset + this.#clusterSize) ?? (this.#refcountBlocks.has(offset / this.#clusterSize) ? "a refcount block" : undefined)
  }

  /** What else than a refcount block the refcount block at `offset` is, or undefined. */
  findForRefcountBlock(offset: number): string | undefined {
    return this.#findRange(offset, offset + this.#clusterSize) ?? (this.#l2Tables.has(offset / this.#clusterSize) ? "an L2 table" : undefined)
  }

  /** What single metadata cluster lies within a contiguous structure, or undefined. */
  findWithin(range: { readonly offset: number; readonly length: number }): string | undefined {
    return this.#findTable(Math.floor(range.offset / this.#clusterSize), Math.ceil((range.offset + range.length) / this.#clusterSize))
  }

  #findTable(first: number, end: number): string | undefined {
    for (let cluster = first; cluster < end; cluster++) {
      if (this.#l2Tables.has(cluster)) return "an L2 table"
      if (this.#refcountBlocks.has(cluster)) return "a refcount block"
    }
    return undefined
  }

  #findRange(start: number, end: number): string | undefined {
    if (start >= this.#rangesEnd) return undefined
    let low = 0
    let high = this.#ranges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const range = this.#ranges[middle]
      if (range !== undefined && range.start < end) low = middle + 1
      else high = middle
    }
    const furthest = this.#furthest[low - 1]
    return furthest !== undefined && furthest.end > start ? furthest.name : undefined
  }

  #sort(): void {
    this.#ranges.sort((a, b) => a.start - b.start)
    this.#furthest = []
    let furthest: Range | undefined
    for (const range of this.#ranges) {
      if (furthest === undefined || range.end > furthest.end) furthest = range
      this.#furthest.push(furthest)
    }
    this.#rangesEnd = furthest?.end ?? 0
  }
}
