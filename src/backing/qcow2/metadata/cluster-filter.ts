/**
 * ClusterFilter: a fast test whether a cluster may be in a set. "No" is certain. It is a bitmap over the cluster number modulo its size, so
 * clusters that share a bit, and clusters that have left the set, may give a false "yes".
 */

/** The bitmap has 8 KiB to 8 MiB, and in that range enough bits for each member that few clusters share one. */
const FEWEST_BITS = 2 ** 16
const MOST_BITS = 2 ** 26
const BITS_PER_MEMBER = 256

export class ClusterFilter {
  readonly #bits: Uint32Array
  readonly #mask: number = 0
  readonly #most: number = 0
  #members = 0

  /** `members`: the expected number of members. */
  constructor(members: number) {
    let size = FEWEST_BITS
    while (size < members * BITS_PER_MEMBER && size < MOST_BITS) size *= 2
    this.#bits = new Uint32Array(size / 32)
    this.#mask = size - 1
    this.#most = size === MOST_BITS ? Number.POSITIVE_INFINITY : (size * 2) / BITS_PER_MEMBER
  }

  /** It has so many members that a larger filter should replace it. */
  get isFull(): boolean {
    return this.#members > this.#most
  }

  add(cluster: number): void {
    const bit = cluster & this.#mask
    this.#bits[bit >>> 5] = (this.#bits[bit >>> 5] ?? 0) | (1 << (bit & 31))
    this.#members++
  }

  mayHave(cluster: number): boolean {
    // Exact for any cluster number: `&` takes it modulo 2^32, and the size is a smaller power of two. A remainder of doubles costs ten
    // times as much.
    const bit = cluster & this.#mask
    return ((this.#bits[bit >>> 5] ?? 0) & (1 << (bit & 31))) !== 0
  }
}
