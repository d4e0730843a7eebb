/** The guest of the embedder fuzzer: it sends requests, and judges what came of each by a model of the disk. */
import { RingGuest } from "../../harness/guest.ts"
import { PackedRing } from "../../harness/packed-ring.ts"
import { ranges } from "../../harness/requests.ts"
import type { Piece, Ring } from "../../harness/ring.ts"
import { OK, T } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import { SECTOR, type SectorModel, sectorsOf } from "../sector-model.ts"

/** Sectors of the disk that the guest uses, divided among its queues. */
export const SECTORS = 96
const LONGEST = 8
const IOERR = 1
const UNSUPP = 2
/** RAM from here on is left alone: what is in flight must not be written over. */
const RAM_END = 0x6_0000

type Placed = ReturnType<RingGuest["place"]>

/** A request that the device has not returned. */
interface Flight {
  readonly ring: Ring
  readonly head: number
  readonly type: number
  readonly first: number
  readonly count: number
  /** What its sectors hold afterwards. */
  readonly value: number | undefined
  readonly placed: Placed
}

export interface Tolerance {
  /** Some request may have failed. */
  readonly mayFail: boolean
  /** Failed requests are told as done. */
  readonly ignoresRead: boolean
  readonly ignoresWrite: boolean
}

export class EmbeddedGuest {
  readonly flights = new Map<string, Flight>()
  readonly #rng: Rng
  readonly #model: SectorModel
  readonly #queues: number
  #value = 0

  constructor(rng: Rng, model: SectorModel, queues: number) {
    this.#rng = rng
    this.#model = model
    this.#queues = queues
  }

  /** Makes some requests available in one ring. */
  send(guest: RingGuest): Ring | undefined {
    if (guest.rings.length === 0) return undefined
    const ring = this.#rng.pick(guest.rings)
    const heads: number[] = []
    for (let count = this.#rng.between(1, this.#rng.pick([1, 5])); count > 0; count--) {
      if (this.#inFlight(ring) >= Math.floor(ring.size / 6) || guest.top > RAM_END) break
      const head = this.#prepare(guest, ring)
      if (head !== undefined) heads.push(head)
    }
    if (heads.length === 0) return undefined
    guest.publish(heads, ring)
    return ring
  }

  /** Takes what the device has returned. @throws Error for what cannot be */
  collect(guest: RingGuest, tolerance: Tolerance, hasEventIdx: boolean): void {
    for (const ring of guest.rings) {
      const isPacked = ring instanceof PackedRing
      if (hasEventIdx && isPacked) ring.setEvents(2, ring.device.word)
      for (const { id, length } of ring.takeUsed()) {
        const key = `${ring.index}:${id}`
        const flight = this.flights.get(key)
        if (flight === undefined) throw new Error(`queue ${ring.index} returned ${id}, which is not in flight`)
        this.flights.delete(key)
        this.#judge(guest, flight, length, tolerance)
      }
      if (hasEventIdx && !isPacked) ring.usedEvent = ring.lastUsed
    }
  }

  /** Requests in flight, of one ring or of all, come to nothing for the guest: they may be done or not. */
  forget(ring?: Ring): void {
    for (const [key, flight] of this.flights) {
      if (ring !== undefined && flight.ring !== ring) continue
      this.#allow(flight)
      this.flights.delete(key)
    }
  }

  #inFlight(ring: Ring): number {
    return [...this.flights.values()].filter((flight) => flight.ring === ring).length
  }

  #prepare(guest: RingGuest, ring: Ring): number | undefined {
    const rng = this.#rng
    const share = Math.floor(SECTORS / this.#queues)
    const first = ring.index * share + rng.below(share)
    const free = this.#free(first, (ring.index + 1) * share)
    if (free === 0) return undefined
    const type = rng.pick([T.IN, T.IN, T.IN, T.OUT, T.OUT, T.OUT, T.WRITE_ZEROES, T.FLUSH, T.GET_ID])
    const hasRange = type !== T.FLUSH && type !== T.GET_ID
    const count = hasRange ? rng.between(1, free) : 0
    const written = ++this.#value
    const placed = guest.place(requestOf({ type, first, count, value: written }))
    const pieces = this.#cut(placed.pieces, { type, count })
    const head = this.#chain(guest, ring, pieces)
    const value = type === T.OUT ? written : type === T.WRITE_ZEROES ? 0 : undefined
    this.flights.set(`${ring.index}:${head}`, { ring, head, type, first: hasRange ? first : -1, count, value, placed })
    return head
  }

  /** How many sectors from `first` on no request in flight touches. */
  #free(first: number, end: number): number {
    const isTaken = (sector: number): boolean => [...this.flights.values()].some(
      (one) => sector >= one.first && sector < one.first + one.count,
    )
    let count = 0
    while (first + count < end && count < LONGEST && !isTaken(first + count)) count++
    return count
  }

  /** Data in two descriptors, now and then within a sector. */
  #cut(pieces: readonly Piece[], { type, count }: { readonly type: number; readonly count: number }): Piece[] {
    const data = pieces[1]
    if ((type !== T.IN && type !== T.OUT) || count < 2 || data === undefined || !this.#rng.chance(0.4)) return [...pieces]
    const at = this.#rng.chance(0.7) ? SECTOR : 100
    const halves = [{ ...data, length: at }, { ...data, address: Number(data.address) + at, length: data.length - at }]
    return pieces.toSpliced(1, 1, ...halves)
  }

  /** A split ring's chains are in tables, so that each needs one descriptor: the lowest one that nobody has. */
  #chain(guest: RingGuest, ring: Ring, pieces: readonly Piece[]): number {
    if (ring instanceof PackedRing) return guest.chain(pieces, { indirect: this.#rng.chance(0.5) }, ring)
    let next = 0
    while (this.flights.has(`${ring.index}:${next}`)) next++
    ring.nextDesc = next
    return guest.chain(pieces, { indirect: true }, ring)
  }

  #judge(guest: RingGuest, flight: Flight, length: number, { mayFail, ignoresRead, ignoresWrite }: Tolerance): void {
    const { type, first, count, value, placed } = flight
    const status = guest.machine.ram[placed.status]
    const text = `request ${type} of sectors ${first} to ${first + count}`
    if (status !== OK) {
      if (!mayFail || (status !== IOERR && status !== UNSUPP)) throw new Error(`${text}: status ${status}`)
      return this.#allow(flight)
    }
    const wanted = type === T.IN ? count * SECTOR + 1 : type === T.GET_ID ? 21 : 1
    if (length !== wanted) throw new Error(`${text}: used length ${length}, not ${wanted}`)
    if (value !== undefined) {
      if (mayFail && ignoresWrite) this.#allow(flight)
      else this.#model.set(first, count, value)
    }
    if (type !== T.IN) return
    for (let sector = 0; sector < count; sector++) {
      const bytes = guest.bytes(placed.in + SECTOR * sector, SECTOR)
      // What could not be read reads as zeroes.
      if (mayFail && ignoresRead && bytes.every((byte) => byte === 0)) continue
      const problem = this.#model.see(first + sector, bytes)
      if (problem !== undefined) throw new Error(`${text}: ${problem}`)
    }
  }

  #allow({ first, count, value }: Flight): void {
    if (value !== undefined) this.#model.allow(first, count, value)
  }
}

interface Wanted {
  readonly type: number
  readonly first: number
  readonly count: number
  readonly value: number
}

function requestOf({ type, first, count, value }: Wanted): Parameters<RingGuest["place"]>[0] {
  switch (type) {
    case T.IN:
      return { type, sector: first, in: SECTOR * count }
    case T.OUT:
      return { type, sector: first, out: sectorsOf(value, count) }
    case T.GET_ID:
      return { type, in: 20 }
    case T.WRITE_ZEROES:
      return { type, out: ranges({ sector: first, sectors: count }) }
    default:
      return { type }
  }
}
