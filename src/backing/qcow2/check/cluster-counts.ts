/**
 * ClusterCounts and ClusterSet: a number, or a yes or no, for each cluster of an image file. Only the touched parts of the file take
 * memory, and a limit stops hostile images from taking all of it.
 */
import { BackingError } from "../../backing.ts"

/** Clusters in a chunk, a power of two. */
const CHUNK = 1024
/** Multiplying by a power of two is exact, and much faster than a remainder of doubles. */
const PER_CHUNK = 1 / CHUNK
/** Maximum number of chunks: counts for 268 million clusters (16 TiB of clusters of 64 KiB) in 1 GiB of memory. */
const MAX_CHUNKS = 1 << 18

/** The uses of a cluster, in the upper bits of its count. Overlapping structures set several bits. */
export const CLUSTER_USE = { DATA: 0x1000_0000, L1_TABLE: 0x2000_0000, L2_TABLE: 0x4000_0000, OTHER: 0x8000_0000 } as const
export type ClusterUse = (typeof CLUSTER_USE)[keyof typeof CLUSTER_USE]

const COUNT_MASK = 0x0fff_ffff

/** The number of references to each cluster, and its uses. Counts saturate at 2^28 - 1, far above those of real images. */
export class ClusterCounts {
  /** The highest cluster with a count, or -1. */
  highest = -1
  readonly #chunks = new Map<number, Uint32Array>()
  // Consecutive calls are mostly for neighbours: remembering the last chunk saves nearly all look-ups in the Map.
  #lastIndex = -1
  #last: Uint32Array | undefined

  add(cluster: number, weight: number, use: ClusterUse): void {
    const index = Math.floor(cluster * PER_CHUNK)
    const within = cluster - index * CHUNK
    let chunk = index === this.#lastIndex ? this.#last : this.#chunks.get(index)
    if (chunk === undefined) {
      chunk = new Uint32Array(CHUNK)
      insert(this.#chunks, index, chunk)
    }
    this.#lastIndex = index
    this.#last = chunk
    const word = chunk[within] ?? 0
    chunk[within] = (word & ~COUNT_MASK) | use | Math.min(COUNT_MASK, (word & COUNT_MASK) + weight)
    if (cluster > this.highest) this.highest = cluster
  }

  get(cluster: number): number {
    const index = Math.floor(cluster * PER_CHUNK)
    const within = cluster - index * CHUNK
    if (index !== this.#lastIndex) {
      this.#lastIndex = index
      this.#last = this.#chunks.get(index)
    }
    return (this.#last?.[within] ?? 0) & COUNT_MASK
  }

  /** Whether the cluster is used as something other than `uses`: guest data, for instance. */
  hasOtherUse(cluster: number, uses: number): boolean {
    const index = Math.floor(cluster * PER_CHUNK)
    const word = this.#chunks.get(index)?.[cluster - index * CHUNK] ?? 0
    return (word & ~(COUNT_MASK | uses)) !== 0
  }

  /** Calls `visit` for each cluster with a count, in ascending order. `visit` must not add counts. */
  forEach(visit: (cluster: number, count: number) => void): void {
    for (const index of [...this.#chunks.keys()].sort((a, b) => a - b)) {
      this.#chunks.get(index)?.forEach((word, within) => {
        if (word !== 0) visit(index * CHUNK + within, word & COUNT_MASK)
      })
    }
  }
}

/** A set of clusters. */
export class ClusterSet {
  readonly #chunks = new Map<number, Uint32Array>()
  #lastIndex = -1
  #last: Uint32Array | undefined

  add(cluster: number): void {
    const index = Math.floor(cluster * PER_CHUNK)
    const within = cluster - index * CHUNK
    let chunk = index === this.#lastIndex ? this.#last : this.#chunks.get(index)
    if (chunk === undefined) {
      chunk = new Uint32Array(CHUNK / 32)
      insert(this.#chunks, index, chunk)
    }
    this.#lastIndex = index
    this.#last = chunk
    chunk[within >>> 5] = ((chunk[within >>> 5] ?? 0) | (1 << (within & 31))) >>> 0
  }

  has(cluster: number): boolean {
    const index = Math.floor(cluster * PER_CHUNK)
    const within = cluster - index * CHUNK
    if (index !== this.#lastIndex) {
      this.#lastIndex = index
      this.#last = this.#chunks.get(index)
    }
    const word = this.#last?.[within >>> 5] ?? 0
    return (word & (1 << (within & 31))) !== 0
  }
}

function insert(chunks: Map<number, Uint32Array>, index: number, chunk: Uint32Array): void {
  if (chunks.size >= MAX_CHUNKS) {
    throw new BackingError(
      "unsupported",
      `the image's clusters are scattered too widely to check in memory: more than ${MAX_CHUNKS * CHUNK} of them`,
    )
  }
  chunks.set(index, chunk)
}
