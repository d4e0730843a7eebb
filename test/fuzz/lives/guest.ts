/**
 * The guest of the lives fuzzer: it lives again and again, through either interface, and knows which bytes of RAM a device may store into.
 */
import type { Rng } from "../../support/rng.ts"
import { PackedRing } from "../../harness/packed-ring.ts"
import { header, ranges } from "../../harness/requests.ts"
import { legacyPlace, type Piece, Ring } from "../../harness/ring.ts"
import type { LivesMachine } from "./machine.ts"
import { EVENT, F, INDIRECT, mask, STATUS, T } from "../../harness/words.ts"
import { type LifeRegisters, type Place, registersOf } from "./registers.ts"
import { SECTOR, sectorsOf } from "../sector-model.ts"

export const QUEUES = 3
/** Sectors that belong to each queue: the guest never uses a sector through two of them. */
export const AREA = 48
const QUEUE_SIZE = 16
const STALE = 0xa5

/** Guest RAM from `start` up to `end`. */
export interface Range {
  readonly start: number
  readonly end: number
}

export interface Flight {
  readonly queue: number
  readonly head: number
  readonly type: number
  readonly first: number
  readonly count: number
  /** Of OUT: what it writes. */
  readonly value: number
  readonly data: readonly Range[]
  readonly status: number
  /** `LivesDisk.errors` when it was sent. */
  readonly errors: number
}

/** One life of the driver: from a reset to the next. */
export class Life {
  readonly guest: LifeRegisters
  readonly rings = new Map<number, Ring>()
  readonly flights = new Map<string, Flight>()
  readonly eventIdx: boolean
  readonly #wantsPacked: boolean
  readonly #wantsOrder: boolean
  readonly #rng: Rng
  readonly #vm: LivesMachine
  #top: number
  #features = 0n
  /** Its driver is a legacy one then. */
  readonly #isBigEndian: boolean

  constructor(rng: Rng, vm: LivesMachine, place: Place) {
    this.#rng = rng
    this.#vm = vm
    this.#top = vm.ramStart + rng.between(1, 64) * 256
    this.guest = registersOf(vm, place, { isLegacy: place.isBigEndian || rng.chance(0.3) })
    this.#isBigEndian = place.isBigEndian
    this.eventIdx = rng.chance(0.5)
    this.#wantsPacked = rng.chance(0.5)
    this.#wantsOrder = rng.chance(0.5)
  }

  /** Uses all RAM for its own things, then drives the device to DRIVER_OK without waiting for anything. */
  start(): void {
    const { guest } = this
    this.#vm.ram.fill(this.#rng.below(256))
    // Without FLUSH the device writes through: each write is flushed before it is answered.
    const maybe = [F.FLUSH, F.DISCARD, F.WRITE_ZEROES].filter(() => this.#rng.chance(0.7))
    const wanted = [F.INDIRECT_DESC, F.MQ, ...maybe, ...(this.eventIdx ? [F.EVENT_IDX] : [])]
    const maybeModern = [...(this.#wantsPacked ? [F.RING_PACKED] : []), ...(this.#wantsOrder ? [F.IN_ORDER] : [])]
    const modern = guest.isModern ? [F.VERSION_1, F.RING_RESET, F.SUSPEND, ...maybeModern] : []
    // What is offered may be other than it was before the reset.
    guest.status = 0
    this.#features = mask(...wanted, ...modern) & guest.offered
    guest.negotiate(this.#features)
    for (let queue = 0; queue < QUEUES; queue++) this.openQueue(queue)
    guest.status = guest.up
  }

  openQueue(queue: number): void {
    const { guest } = this
    const base = this.alloc(legacyPlace(0, QUEUE_SIZE).length, 4096)
    const RingOf = this.isPacked ? PackedRing : Ring
    const ring = new RingOf(this.#vm, { index: queue, size: QUEUE_SIZE, base, isBigEndian: this.#isBigEndian }).clear()
    this.rings.set(queue, ring)
    guest.enable(queue, ring)
  }

  /** It is up, and knows how. */
  get canSuspend(): boolean {
    return (this.#features & mask(F.SUSPEND)) !== 0n && this.guest.status === this.guest.up
  }

  get isPacked(): boolean {
    return (this.#features & mask(F.RING_PACKED)) !== 0n
  }

  /** Chains come back in the order in which they were made available. */
  get isInOrder(): boolean {
    return (this.#features & mask(F.IN_ORDER)) !== 0n
  }

  /** Asks for an interrupt with the next chain that comes back. */
  wantInterrupt(ring: Ring): void {
    if (!this.eventIdx) return
    if (ring instanceof PackedRing) ring.setEvents(EVENT.DESC, ring.device.word)
    else ring.usedEvent = ring.lastUsed
  }

  /** Makes a chain available that cannot be. */
  breakRing(ring: Ring): void {
    if (ring instanceof PackedRing) ring.publish(ring.put([{ address: 0, length: 7, flags: INDIRECT }]))
    else ring.publish(0xffff)
  }

  /** What a driver sees of a device that has been reset: everything is as after power-on, at once. Returns what is wrong. */
  reset(): string | undefined {
    const { guest } = this
    guest.status = 0
    if (guest.status !== 0) return `the status reads ${guest.status} after a reset`
    if (guest.acknowledge() !== 0) return "an interrupt is left after a reset"
    for (let queue = 0; queue < QUEUES; queue++) {
      const registers = guest.queueState(queue)
      if (registers.some((register) => register !== 0)) return `the registers of queue ${queue} read ${registers.join()} after a reset`
    }
    return undefined
  }

  get canResetQueues(): boolean {
    return this.guest.isModern
  }

  /** Resets one queue. Returns what is wrong. */
  resetQueue(queue: number): string | undefined {
    const registers = this.guest.resetQueue(queue)
    return registers.every((register) => register === 0)
      ? undefined
      : `queue_reset and queue_enable read ${registers.join()} after a queue reset`
  }

  get isBroken(): boolean {
    return (this.guest.status & STATUS.NEEDS_RESET) !== 0
  }

  alloc(length: number, alignment = 1): number {
    const address = Math.ceil(this.#top / alignment) * alignment
    this.#top = address + length + this.#rng.below(40)
    if (this.#top > this.#vm.ram.length) throw new Error("the life has used up its RAM")
    return address
  }

  /** Whether there is RAM for a few more requests. */
  get hasRoom(): boolean {
    return this.#top + 0x8000 < this.#vm.ram.length
  }

  /** Descriptors of `queue` that no request in flight uses. */
  #freeDescriptors(queue: number): number[] {
    const used = new Set([...this.flights.values()].filter((flight) => flight.queue === queue).map(({ head }) => head))
    // Ids of a packed ring have nothing to do with descriptors.
    if (this.isPacked) return Array.from({ length: QUEUE_SIZE - used.size }, (_, index) => index)
    return Array.from({ length: QUEUE_SIZE }, (_, index) => index).filter((index) => !used.has(index))
  }

  /** Sectors from `first` on that no request in flight touches. */
  #freeSectors(queue: number, first: number): number {
    const isTaken = (sector: number) => [...this.flights.values()].some(
      (flight) => sector >= flight.first && sector < flight.first + flight.count,
    )
    let count = 0
    while (first + count < AREA * (queue + 1) && count < 6 && !isTaken(first + count)) count++
    return count
  }

  /** Puts a random request into `queue`, not yet available. All its descriptors but the head are in an indirect table. */
  prepare(queue: number, value: number, errors: number): Flight | undefined {
    const rng = this.#rng
    const free = this.#freeDescriptors(queue)[0]
    const offered = [[F.FLUSH, T.FLUSH], [F.DISCARD, T.DISCARD], [F.WRITE_ZEROES, T.WRITE_ZEROES]] as const
    const others = offered.filter(([feature]) => (this.#features & mask(feature)) !== 0n).map(([, other]) => other)
    const type = rng.pick([T.IN, T.IN, T.IN, T.OUT, T.OUT, T.OUT, ...others])
    const first = AREA * queue + rng.below(AREA)
    const sectors = this.#freeSectors(queue, first)
    const ring = this.rings.get(queue)
    if (free === undefined || ring === undefined || (sectors === 0 && type !== T.FLUSH)) return undefined
    const count = type === T.FLUSH ? 0 : rng.between(1, sectors)
    const out = type === T.OUT
      ? sectorsOf(value, count)
      : type === T.IN || type === T.FLUSH ? new Uint8Array(0) : this.#ordered(ranges(...cut(rng, first, count)), [8, 4, 4])
    const readable = this.#scatter(
      Uint8Array.from([...this.#ordered(header({ type, sector: type === T.IN || type === T.OUT ? first : 0 }), [4, 4, 8]), ...out]),
      false,
    )
    const writable = this.#scatter(new Uint8Array(type === T.IN ? count * SECTOR : 0).fill(STALE), true)
    const status = this.alloc(1)
    this.#vm.ram[status] = STALE
    const pieces = [...readable, ...writable, { address: status, length: 1, writable: true }]
    const table = this.alloc(16 * pieces.length, 16)
    ring.table(pieces, table)
    // A split ring's descriptors come back in any order, so it takes one that is free; a packed ring's are taken in theirs.
    if (!(ring instanceof PackedRing)) ring.nextDesc = free
    const head = ring.chainWithTable([], table, 16 * pieces.length)
    const data = writable.map(({ address, length }) => ({ start: Number(address), end: Number(address) + length }))
    const flight = { queue, head, type, first, count, value, data, status, errors }
    this.flights.set(`${queue}:${head}`, flight)
    return flight
  }

  /** Little-endian numbers, of `widths` bytes again and again, in the guest's order. */
  #ordered(bytes: Uint8Array, widths: readonly number[]): Uint8Array {
    for (let at = 0; this.#isBigEndian && at < bytes.length;) {
      for (const width of widths) {
        bytes.subarray(at, at + width).reverse()
        at += width
      }
    }
    return bytes
  }

  #scatter(bytes: Uint8Array, writable: boolean): Piece[] {
    const pieces: Piece[] = []
    for (let done = 0; done < bytes.length; ) {
      const length = pieces.length > 3
        ? bytes.length - done
        : Math.min(this.#rng.pick([16, SECTOR, 700, bytes.length]), bytes.length - done)
      const address = this.alloc(length)
      this.#vm.ram.set(bytes.subarray(done, done + length), address)
      pieces.push({ address, length, writable })
      done += length
    }
    return pieces
  }

  /** The bytes of RAM that the device may store into now. */
  writable(): Range[] {
    const flights = [...this.flights.values()].flatMap(({ data, status }) => [...data, { start: status, end: status + 1 }])
    const used = [...this.rings.values()].flatMap((ring) => {
      const { desc, used: start, size } = ring
      const own = { start, end: start + (ring instanceof PackedRing ? 4 : 6 + 8 * size) }
      return ring instanceof PackedRing ? [own, { start: desc, end: desc + 16 * size }] : [own]
    })
    return [...used, ...flights]
  }

  /** The data of a read, one piece after the other. */
  dataOf({ data }: Flight): Uint8Array {
    return Buffer.concat(data.map(({ start, end }) => this.#vm.ram.subarray(start, end)))
  }
}

/** `count` sectors from `first` on, in up to three ranges. */
function cut(rng: Rng, first: number, count: number): { readonly sector: number; readonly sectors: number }[] {
  const cuts = [0, rng.between(0, count), rng.between(0, count), count].toSorted((a, b) => a - b)
  return cuts.slice(1).map((end, at) => ({ sector: first + (cuts[at] ?? 0), sectors: end - (cuts[at] ?? 0) }))
}
