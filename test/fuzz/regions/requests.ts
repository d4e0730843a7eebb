/** Draws requests for the regions fuzzer: in chains of any shape, with buffers in any region, touching, empty, overlapping or broken. */
import { RING_BYTES } from "../../harness/regions-guest.ts"
import { header, ranges } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { T } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import { BIG_BUFFERS, EDGE, type Life, SECTORS, SPACE, TABLE_BYTES, TABLES } from "./life.ts"

/** What the driver stores, and the chain that it makes available. */
export interface DrawnRequest {
  /** Its type, sector and number of descriptors. */
  readonly name: string
  readonly type: number
  readonly queue: number
  readonly stores: readonly (readonly [address: number, bytes: Uint8Array])[]
  readonly pieces: readonly Piece[]
  /** The offset of its indirect table in the region of the queue's ring; undefined for none. */
  readonly table: number | undefined
}

interface Draft {
  readonly type: number
  readonly sector: number
  /** The region of the ring. */
  readonly home: number
  /** It has many buffers, and many sectors. */
  readonly isBig: boolean
  readonly stores: [number, Uint8Array][]
  readonly pieces: Piece[]
}

/** Where a buffer lies. */
interface Place {
  readonly space: number
  /** In the region, in bytes. */
  readonly offset: number
  /** It ends there at the latest. */
  readonly end: number
}

const MOST_BYTES = 0x8000
/** Buffers of a big request that are filled. */
const MOST_STORES = 20
/** Bytes at the beginning of a region that are nobody's. */
const FREE = 0x40

/** Buffers of different requests of a step do not overlap: what comes of such is the driver's fault, and depends on the way. */
export class RequestDrawing {
  readonly #rng: Rng
  readonly #life: Life
  #top = RING_BYTES
  #tables = 0
  /** There is a big request, and there is a buffer at the edge of a region. */
  #isBig = false
  #isAtEdge = false

  constructor(rng: Rng, life: Life) {
    this.#rng = rng
    this.#life = life
  }

  /** All RAM is free again. */
  begin(): void {
    this.#top = RING_BYTES
    this.#tables = 0
    this.#isBig = this.#isAtEdge = false
  }

  draw(queue: number): DrawnRequest {
    const rng = this.#rng
    const { odds, queues, ringSize } = this.#life
    const type = rng.chance(odds) ? rng.pick([T.FLUSH, T.GET_ID, T.WRITE_ZEROES, 99]) : rng.pick([T.IN, T.OUT])
    const sector = rng.chance(0.05) ? SECTORS - rng.below(3) : rng.pick([rng.below(SECTORS - 3000), rng.below(64), 7])
    const home = queues[queue % queues.length] ?? 0
    const isBig = (type === T.IN || type === T.OUT) && !this.#isBig && rng.chance(0.06)
    this.#isBig ||= isBig
    const draft: Draft = { type, sector, home, isBig, stores: [], pieces: [] }
    this.#header(draft)
    if (type !== T.FLUSH) this.#data(draft)
    this.#status(draft)
    const { pieces, stores } = draft
    // A broken chain, rarely: it ends the life of the device.
    if (rng.chance(0.002)) pieces.reverse()
    if (rng.chance(0.001)) pieces.splice(rng.below(pieces.length), 1, { address: 2 ** 40, length: 512, writable: true })
    const isIndirect = pieces.length > Math.min(6, ringSize) || rng.chance(0.4)
    const table = isIndirect ? TABLES + TABLE_BYTES * this.#tables++ : undefined
    return { name: `${type}@${sector}x${pieces.length}${isIndirect ? "i" : ""}`, type, queue, stores, pieces, table }
  }

  /** Mostly in the region of the ring. */
  #space(home: number): number {
    return this.#rng.chance(1 - this.#life.odds / 4) ? home : this.#rng.below(3)
  }

  #addressOf({ space, offset }: Pick<Place, "space" | "offset">): number {
    return (this.#life.starts[space] ?? 0) + offset
  }

  /** `offset`: where it is to lie, instead of where there is room. */
  #alloc(space: number, length: number, offset = this.#top): number {
    this.#top = offset + length + this.#rng.below(3)
    if (this.#top > TABLES) throw new Error("the requests of a step need more room")
    return this.#addressOf({ space, offset })
  }

  /** The last bytes of a region, or bytes that reach beyond; undefined mostly. */
  #edge(length: number, chance = 0.03): Place | undefined {
    const rng = this.#rng
    if (this.#isAtEdge || !rng.chance(chance)) return undefined
    this.#isAtEdge = true
    const space = rng.below(3)
    const [start, next] = [this.#life.starts[space] ?? 0, this.#life.starts[space + 1] ?? 0]
    // What reaches beyond RAM ends the life of the device.
    const end = SPACE + (next === start + SPACE || rng.chance(0.1) ? rng.pick([0, 1, 1, FREE]) : 0)
    return { space, offset: Math.max(EDGE, end - length), end }
  }

  #header({ type, sector, home, stores, pieces }: Draft): void {
    const rng = this.#rng
    const edge = this.#edge(16)
    const head = edge === undefined ? this.#alloc(this.#space(home), 16) : this.#addressOf(edge)
    const bytes = header({ type, sector, reserved: rng.u32() })
    // Its second part is in another buffer, which may be in another region.
    const split = rng.chance(this.#life.odds / 3) ? rng.below(17) : 16
    if (split < 16) {
      const other = this.#alloc(rng.below(3), 16 - split)
      stores.push([head, bytes.subarray(0, split)], [other, bytes.subarray(split)])
      pieces.push({ address: head, length: split, writable: false }, { address: other, length: 16 - split, writable: false })
      return
    }
    stores.push([head, bytes])
    let from = 0
    for (const cut of [...(rng.chance(0.1) ? [rng.below(17)] : []), 16]) {
      if (cut > from || rng.chance(0.5)) pieces.push({ address: head + from, length: cut - from, writable: false })
      from = cut
    }
  }

  #data(draft: Draft): void {
    const rng = this.#rng
    const { type, sector, isBig, stores, pieces } = draft
    const writable = type === T.IN || type === T.GET_ID
    const count = isBig ? 1 + rng.below(300) : rng.pick([1, 1, 1, 2, 3, 5, 17])
    let left = this.#length(type, isBig)
    let before: Place | undefined
    for (let n = 0; n < count && left > 0; n++) {
      const wanted = n === count - 1 ? Math.min(left, MOST_BYTES) : this.#cut(left, isBig)
      const place = this.#place(draft, wanted, before)
      const length = Math.min(wanted, place.end - place.offset)
      const address = this.#addressOf(place)
      if (!writable && stores.length < MOST_STORES && length > 0) {
        const bytes = type === T.WRITE_ZEROES ? ranges({ sector, sectors: rng.below(8) }) : rng.bytes(Math.min(length, 2048))
        stores.push([address, bytes.subarray(0, length)])
      }
      pieces.push({ address, length, writable })
      before = { ...place, offset: place.offset + length }
      left -= length
    }
  }

  #length(type: number, isBig: boolean): number {
    const rng = this.#rng
    if (type === T.GET_ID) return 20
    if (type === T.WRITE_ZEROES) return 16
    return 512 * (1 + rng.below(isBig ? 3000 : 6)) + (rng.chance(0.04) ? 1 + rng.below(511) : 0)
  }

  /** The length of a buffer that others follow. */
  #cut(left: number, isBig: boolean): number {
    const rng = this.#rng
    if (rng.chance(0.03)) return 0
    return Math.min(left, MOST_BYTES, rng.chance(0.5) ? 512 * (1 + rng.below(isBig ? 60 : 2)) : 1 + rng.below(700))
  }

  /** Where a buffer lies: it touches the one before, or ends at a region's edge, or reaches into the next one, or beyond. */
  #place({ home, isBig }: Draft, length: number, before: Place | undefined): Place {
    const rng = this.#rng
    if (before !== undefined && rng.chance(0.3) && before.offset + length <= before.end) {
      if (before.end === TABLES) this.#alloc(before.space, length, before.offset)
      return before
    }
    const edge = this.#edge(rng.chance(0.7) ? length : 1 + rng.below(600))
    if (edge !== undefined) return edge
    const space = this.#space(home)
    if (isBig) return { space, offset: rng.between(BIG_BUFFERS, EDGE - length), end: EDGE }
    const offset = this.#top
    this.#alloc(space, length)
    return { space, offset, end: TABLES }
  }

  #status({ home, pieces }: Draft): void {
    const rng = this.#rng
    // With room for another byte.
    const edge = this.#edge(1, 0.02 + this.#life.odds / 2)
    const address = edge === undefined ? this.#alloc(this.#space(home), 2) : this.#addressOf(edge)
    const last = pieces.at(-1)
    const status = { address, length: 1, writable: true }
    const kind = rng.below(60)
    if (kind === 0 && last?.writable === true) pieces[pieces.length - 1] = { ...last, length: last.length + 1 }
    else if (kind === 1) pieces.push({ ...status, length: 2 })
    else if (kind === 2) pieces.push(status, { address: address + 9, length: 0, writable: true })
    else if (kind === 3) pieces.push({ ...status, length: 0 }, status)
    else pieces.push(status)
  }
}
