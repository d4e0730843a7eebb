/**
 * Packer: allocates space for compressed clusters back to back, so that several share a host cluster (QC-CMP-09). Each of them adds 1 to
 * the refcount of every host cluster that its sectors touch.
 */
import type { Allocator } from "./metadata/allocator.ts"
import type { Geometry } from "./format/geometry.ts"
import type { Refcounts } from "./metadata/refcounts.ts"

export interface PackerOptions {
  readonly geometry: Geometry
  readonly allocator: Allocator
  readonly refcounts: Refcounts
}

/** No host cluster is partly filled. */
const NONE = -1

export class Packer {
  readonly #geometry: Geometry
  readonly #allocator: Allocator
  readonly #refcounts: Refcounts
  /** Byte where the next stream goes, or NONE. `refcounts.filling` is its cluster, unless that has been freed. */
  #next = NONE
  /** `#next` before the last `allocate`. */
  #before = NONE

  constructor(options: PackerOptions) {
    this.#geometry = options.geometry
    this.#allocator = options.allocator
    this.#refcounts = options.refcounts
  }

  /** Allocates `length` bytes, fewer than a cluster has. Returns the first host byte. @throws as `Allocator.allocate` */
  allocate(length: number): number {
    const { clusterSize } = this.#geometry
    const start = this.#openEnd()
    const room = start === NONE ? 0 : clusterSize - (start % clusterSize)
    this.#before = start
    if (room >= length) {
      this.#refcounts.add(this.#clusterOf(start), 1)
      return this.#taken(start, length)
    }
    const { first } = this.#allocator.allocate(1)
    if (start === NONE || first * clusterSize !== start + room) return this.#taken(first * clusterSize, length)
    // The new cluster is adjacent: the stream begins in the rest of the previous one.
    try {
      this.#refcounts.add(this.#clusterOf(start), 1)
    } catch (error) {
      this.#allocator.release(first, 1)
      throw error
    }
    return this.#taken(start, length)
  }

  /** Undoes the last `allocate`, which returned `start` for these `length` bytes. */
  release(start: number, length: number): void {
    const first = this.#clusterOf(start)
    this.#allocator.release(first, this.#clusterOf(start + length - 1) - first + 1)
    this.#next = this.#before
    if (this.#next !== NONE) this.#refcounts.filling = this.#clusterOf(this.#next)
  }

  /**
   * Where the next stream may go. NONE if no cluster is partly filled, if it has been freed, or if its refcount is at its maximum
   * (QC-CMP-14).
   */
  #openEnd(): number {
    if (this.#next === NONE) return NONE
    const cluster = this.#clusterOf(this.#next)
    const isOpen = this.#refcounts.filling === cluster && this.#refcounts.get(cluster) < this.#geometry.refcountMax
    return isOpen ? this.#next : NONE
  }

  #taken(start: number, length: number): number {
    const end = start + length
    const isFull = end % this.#geometry.clusterSize === 0
    this.#next = isFull ? NONE : end
    this.#refcounts.filling = isFull ? NONE : this.#clusterOf(end)
    return start
  }

  #clusterOf(byte: number): number {
    return Math.floor(byte / this.#geometry.clusterSize)
  }
}
