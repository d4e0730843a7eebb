/**
 * ShadowRefcounts: the refcounts after a change. Each changed block is copied to a free cluster, and a new refcount table names the copies.
 * Nothing that the disk refers to is overwritten, so an interrupted change leaves nothing to undo.
 */
import { BackingError } from "../../backing.ts"
import { setU64, viewOf } from "../../bytes/fields.ts"
import type { Geometry } from "../format/geometry.ts"
import { type RefcountCodec, refcountCodec } from "../format/refcount-codec.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { Allocator } from "../metadata/allocator.ts"
import type { ClusterFile } from "../metadata/cluster-file.ts"
import type { ClusterRun } from "../metadata/l2-view.ts"
import type { Refcounts } from "../metadata/refcounts.ts"
import { FreedRuns } from "./freed-runs.ts"

/** Maximum bytes of copied blocks in memory. Further ones are written to their new places early. */
const MOST_HELD = 64 * 1024 * 1024
const FEWEST_HELD = 8

/** The copy of a block. */
class Shadow {
  readonly index: number = 0
  /** Undefined while it is only in the file. */
  view: DataView | undefined
  /** Host byte of its new place, or -1 before it has one. */
  place = -1
  isDirty = true

  constructor(index: number, bytes: Uint8Array) {
    this.index = index
    this.view = viewOf(bytes)
  }
}

export interface ShadowOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly refcounts: Refcounts
  readonly allocator: Allocator
}

/** A refcount table on disk, and its content. */
export interface StoredTable {
  readonly offset: number
  readonly content: Uint8Array
}

export class ShadowRefcounts {
  readonly freed: FreedRuns
  /** All allocated runs: freed if the change fails. */
  readonly allocated: ClusterRun[] = []
  readonly #file: ClusterFile
  readonly #geometry: Geometry
  readonly #refcounts: Refcounts
  readonly #allocator: Allocator
  readonly #codec: RefcountCodec
  readonly #mostHeld: number = 0
  readonly #shadows = new Map<number, Shadow>()
  /** The copies in memory, the oldest first. */
  readonly #held = new Set<Shadow>()
  #memo: Shadow | undefined

  constructor(options: ShadowOptions) {
    this.#file = options.file
    this.#geometry = options.geometry
    this.#refcounts = options.refcounts
    this.#allocator = options.allocator
    this.#codec = refcountCodec(options.geometry.refcountOrder)
    this.#mostHeld = Math.max(FEWEST_HELD, Math.floor(MOST_HELD / options.geometry.clusterSize))
    this.freed = new FreedRuns(options.geometry)
  }

  /** The refcount of a host cluster. */
  get(cluster: number): number {
    const entries = this.#geometry.refcountBlockEntries
    const index = Math.floor(cluster / entries)
    const shadow = this.#memo?.index === index ? this.#memo : this.#shadows.get(index)
    return shadow === undefined ? this.#refcounts.get(cluster) : this.#codec.get(this.#load(shadow), cluster - index * entries)
  }

  /** Adds `delta` to the refcounts of `count` clusters from `first`. @throws BackingError if a sum does not fit */
  add(first: number, count: number, delta: number): void {
    const entries = this.#geometry.refcountBlockEntries
    for (let cluster = first; cluster < first + count;) {
      const index = Math.floor(cluster / entries)
      const from = cluster - index * entries
      const to = Math.min(entries, from + first + count - cluster)
      this.#addWithin(index, from, to, delta)
      cluster += to - from
    }
  }

  /** Copies the block at `index` of the table even if it does not change, so that it moves. */
  copyBlock(index: number): void {
    this.#own(index, 0)
  }

  #addWithin(index: number, from: number, to: number, delta: number): void {
    const { get, set } = this.#codec
    const { refcountMax, refcountBlockEntries } = this.#geometry
    const view = this.#own(index, from)
    for (let at = from; at < to; at++) {
      const before = get(view, at)
      const after = before + delta
      // A cluster that has references cannot have the refcount 0.
      if (after < 0 || before === 0 || after > refcountMax) throw this.#misfit(index * refcountBlockEntries + at, before === 0 ? -1 : after)
      set(view, at, after)
      if (after === 0) this.freed.add(index * refcountBlockEntries + at)
    }
  }

  #misfit(cluster: number, after: number): BackingError {
    const offset = cluster * this.#geometry.clusterSize
    if (after < 0) return this.#file.corrupt(`the refcount of the cluster at byte ${offset} is too small for the references to it`, offset)
    const { refcountBits, refcountMax } = this.#geometry
    const message = `the cluster at byte ${offset} has ${refcountMax} references, the most that refcounts of ${refcountBits} bits can count`
    return new BackingError("no-space", `${message}; make an image with wider refcounts (qemu-img convert -o refcount_bits=16)`, {
      path: this.#file.path,
    })
  }

  /** Takes 1 to `most` contiguous free clusters, each with the refcount 1. */
  allocate(most: number): ClusterRun {
    return this.#taken(this.#allocator.allocate(most))
  }

  /** Takes `count` contiguous free clusters. Returns the first host byte. */
  allocateTable(count: number): number {
    return this.#taken(this.#allocator.allocateInRow(count)).first * this.#geometry.clusterSize
  }

  /** Sets the refcounts of new clusters in the copies; the allocator has set them in the image's own blocks. */
  #taken(run: ClusterRun): ClusterRun {
    this.allocated.push(run)
    const entries = this.#geometry.refcountBlockEntries
    for (let cluster = run.first; cluster < run.first + run.count; cluster++) {
      const index = Math.floor(cluster / entries)
      const shadow = this.#shadows.get(index)
      if (shadow === undefined) continue
      this.#codec.set(this.#load(shadow), cluster - index * entries, 1)
      shadow.isDirty = true
    }
    return run
  }

  /** The copy of a block, which the caller changes. */
  #own(index: number, at: number): DataView {
    if (this.#memo?.index === index && this.#memo.view !== undefined) {
      this.#memo.isDirty = true
      return this.#memo.view
    }
    const known = this.#shadows.get(index)
    if (known !== undefined) {
      known.isDirty = true
      return this.#load(known)
    }
    // Comes first: it allocates, and the copy has to include the new refcounts.
    this.#makeRoom()
    const block = this.#refcounts.block(index)
    if (block === undefined) throw this.#misfit(index * this.#geometry.refcountBlockEntries + at, -1)
    const bytes = block.bytes.slice()
    const shadow = new Shadow(index, bytes)
    this.#shadows.set(index, shadow)
    this.#held.add(shadow)
    this.#memo = shadow
    return viewOf(bytes)
  }

  #load(shadow: Shadow): DataView {
    this.#memo = shadow
    if (shadow.view !== undefined) return shadow.view
    // It allocates, which may already load this copy.
    this.#makeRoom()
    if (shadow.view !== undefined) return shadow.view
    const bytes = new Uint8Array(this.#geometry.clusterSize)
    this.#file.read(bytes, shadow.place)
    shadow.view = viewOf(bytes)
    this.#held.add(shadow)
    this.#memo = shadow
    return shadow.view
  }

  #makeRoom(): void {
    if (this.#held.size < this.#mostHeld) return
    for (const oldest of this.#held) {
      // Comes before the removal from `#held`: it may load another copy, and call `#makeRoom` again.
      this.#place(oldest)
      this.#write(oldest)
      this.#held.delete(oldest)
      oldest.view = undefined
      return
    }
  }

  #place(shadow: Shadow): void {
    if (shadow.place >= 0) return
    const { first } = this.#allocator.allocate(1)
    shadow.place = first * this.#geometry.clusterSize
    this.#taken({ first, count: 1 })
  }

  #write(shadow: Shadow): void {
    if (!shadow.isDirty || shadow.view === undefined) return
    this.#file.write(new Uint8Array(shadow.view.buffer, shadow.view.byteOffset, shadow.view.byteLength), shadow.place)
    shadow.isDirty = false
  }

  /**
   * Writes all copies, and a table that names them. Returns that table, and the clusters of the old table and blocks. The caller must not
   * change or allocate anything afterwards.
   */
  store(): { readonly table: StoredTable | undefined; readonly left: readonly ClusterRun[] } {
    if (this.#shadows.size === 0) return { table: undefined, left: [] }
    const { clusterSize } = this.#geometry
    for (const shadow of this.#shadows.values()) this.#place(shadow)
    const left: ClusterRun[] = []
    const offset = this.#allocateRefcountTable(left)
    const { table } = this.#refcounts
    const content = table.bytes()
    const view = viewOf(content)
    left.push({ first: table.place.offset / clusterSize, count: table.place.length / clusterSize })
    for (const shadow of this.#shadows.values()) {
      const { index } = shadow
      const before = (table.hi(index) * 2 ** 32 + table.lo(index)) / clusterSize
      const isEmpty = this.#isEmptyBut(shadow, before)
      const place = isEmpty ? 0 : shadow.place
      // If an empty block was in its own range, its own refcount goes away with it, so there is nothing to lower.
      if (!isEmpty || Math.floor(before / this.#geometry.refcountBlockEntries) !== index) left.push({ first: before, count: 1 })
      if (isEmpty) left.push({ first: shadow.place / clusterSize, count: 1 })
      setU64(view, index * TABLE_ENTRY_SIZE, place)
    }
    for (const shadow of this.#held) this.#write(shadow)
    this.#file.write(content, offset)
    return { table: { offset, content }, left }
  }

  /** Whether no cluster of the copy's range except `cluster` is in use. */
  #isEmptyBut(shadow: Shadow, cluster: number): boolean {
    const view = this.#load(shadow)
    const entries = this.#geometry.refcountBlockEntries
    for (let at = firstUsed(view, 0); at < view.byteLength; at = firstUsed(view, at + 1)) {
      const bits = this.#geometry.refcountBits
      // The refcounts that are in this byte, or that contain it.
      const from = Math.floor((at * 8) / bits)
      const to = Math.ceil(((at + 1) * 8) / bits)
      for (let index = from; index < to; index++) {
        if (this.#codec.get(view, index) !== 0 && shadow.index * entries + index !== cluster) return false
      }
    }
    return true
  }

  /** Allocates the new table. This may enlarge the image's own table: then the new one is too small, and is allocated again. */
  #allocateRefcountTable(left: ClusterRun[]): number {
    const { clusterSize } = this.#geometry
    const { table } = this.#refcounts
    for (;;) {
      const { length } = table.place
      const offset = this.allocateTable(length / clusterSize)
      if (table.place.length === length) return offset
      left.push({ first: offset / clusterSize, count: length / clusterSize })
    }
  }
}

/** The first byte from `from` on that is not 0. */
function firstUsed(view: DataView, from: number): number {
  let at = from
  while (at < view.byteLength && view.getUint8(at) === 0) at++
  return at
}
