/**
 * ClusterIndex: which host clusters a table names, and how often. The time of a look-up does not depend on the image: the hash has a secret
 * of this process, so nobody can make an image with collisions, and the index grows one shard at a time.
 */

/** A table that names single metadata clusters: the L1 table names L2 tables, the refcount table names refcount blocks. */
export interface ClusterList {
  /** Maximum number of entries. */
  readonly mostEntries: number
  /** Calls `visit` for each host cluster that an entry names. */
  forEach(visit: (cluster: number) => void): void
}

const FEWEST_SLOTS = 64
/** Members for each shard if all entries of the table are in use. */
const SHARD_MEMBERS = 16384

const SECRET_LOW = Math.floor(Math.random() * 2 ** 32) | 0
const SECRET_HIGH = Math.floor(Math.random() * 2 ** 32) | 1

/** A hash of 32 bits of a cluster number below 2^53. */
function hash(cluster: number): number {
  let mixed = cluster ^ SECRET_LOW ^ Math.imul(Math.floor(cluster / 2 ** 32), SECRET_HIGH)
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85eb_ca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}

/** A hash table with linear probing, at most half full. */
class Shard {
  /** Cluster + 1; 0 is a free slot. */
  #keys: Float64Array
  #counts: Uint32Array
  #used = 0

  constructor(slots: number) {
    this.#keys = new Float64Array(slots)
    this.#counts = new Uint32Array(slots)
  }

  get size(): number {
    return this.#used
  }

  has(cluster: number, hashed: number): boolean {
    return this.#keys[this.#find(cluster, hashed)] !== 0
  }

  add(cluster: number, hashed: number): void {
    const at = this.#find(cluster, hashed)
    this.#counts[at] = (this.#counts[at] ?? 0) + 1
    if (this.#keys[at] !== 0) return
    this.#keys[at] = cluster + 1
    this.#used++
    if (this.#used * 2 > this.#keys.length) this.#grow()
  }

  remove(cluster: number, hashed: number): void {
    const at = this.#find(cluster, hashed)
    const count = this.#counts[at] ?? 0
    if (count > 1) this.#counts[at] = count - 1
    else if (count === 1) this.#free(at)
  }

  /** The slot of `cluster`, or the free slot for it. */
  #find(cluster: number, hashed: number): number {
    const keys = this.#keys
    const mask = keys.length - 1
    let at = hashed & mask
    for (let key = keys[at]; key !== 0 && key !== cluster + 1; key = keys[at]) at = (at + 1) & mask
    return at
  }

  /** Frees a slot, and moves up later members of the same probe sequence. */
  #free(slot: number): void {
    const keys = this.#keys
    const counts = this.#counts
    const mask = keys.length - 1
    let hole = slot
    for (let at = (hole + 1) & mask; ; at = (at + 1) & mask) {
      const key = keys[at] ?? 0
      if (key === 0) break
      const home = hash(key - 1) & mask
      if (((at - home) & mask) < ((at - hole) & mask)) continue
      keys[hole] = key
      counts[hole] = counts[at] ?? 0
      hole = at
    }
    keys[hole] = 0
    counts[hole] = 0
    this.#used--
  }

  forEach(visit: (cluster: number) => void): void {
    for (const key of this.#keys) if (key !== 0) visit(key - 1)
  }

  #grow(): void {
    const keys = this.#keys
    const counts = this.#counts
    this.#keys = new Float64Array(keys.length * 2)
    this.#counts = new Uint32Array(keys.length * 2)
    for (let slot = 0; slot < keys.length; slot++) {
      const key = keys[slot] ?? 0
      if (key === 0) continue
      const at = this.#find(key - 1, hash(key - 1))
      this.#keys[at] = key
      this.#counts[at] = counts[slot] ?? 0
    }
  }
}

export class ClusterIndex {
  /** Allocated at their first use. */
  readonly #shards: (Shard | undefined)[]
  /** Right shift that leaves the upper bits of a hash, which choose the shard. */
  readonly #shift: number = 0

  readonly #slotsAtFirst: number = 0

  /** Adds the clusters that the table names now. */
  constructor(list: ClusterList) {
    let members = 0
    list.forEach(() => members++)
    // At least one bit, because JavaScript treats a shift by 32 as a shift by 0.
    const bits = Math.max(1, Math.ceil(Math.log2(list.mostEntries / SHARD_MEMBERS)))
    this.#shift = 32 - bits
    this.#shards = Array.from({ length: 2 ** bits }, () => undefined)
    // Room for half as many again, because the hash does not fill all shards equally.
    this.#slotsAtFirst = Math.max(FEWEST_SLOTS, 2 ** Math.ceil(Math.log2((members * 3) / 2 ** bits + 1)))
    list.forEach((cluster) => this.add(cluster))
  }

  /** Clusters that the table names. */
  get size(): number {
    let size = 0
    for (const shard of this.#shards) size += shard?.size ?? 0
    return size
  }

  /** Calls `visit` for each cluster that the table names, once. */
  forEach(visit: (cluster: number) => void): void {
    for (const shard of this.#shards) shard?.forEach(visit)
  }

  /** Whether the table names the cluster. */
  has(cluster: number): boolean {
    const hashed = hash(cluster)
    return this.#shards[hashed >>> this.#shift]?.has(cluster, hashed) === true
  }

  /** Notes an entry of the table that names the cluster. */
  add(cluster: number): void {
    const hashed = hash(cluster)
    const shard = (this.#shards[hashed >>> this.#shift] ??= new Shard(this.#slotsAtFirst))
    shard.add(cluster, hashed)
  }

  /** Notes that an entry no longer names the cluster. */
  remove(cluster: number): void {
    const hashed = hash(cluster)
    this.#shards[hashed >>> this.#shift]?.remove(cluster, hashed)
  }
}
