/**
 * The guest of the lives fuzzer: it lives again and again, through either interface, and knows which bytes of RAM a device may store into.
 */
import type { AttachedDisk, Machine } from "../../src/vmm/machine.ts"
import type { Rng } from "../support/rng.ts"
import { LegacyGuest, ModernGuest } from "../harness/registers.ts"
import { header, ranges } from "../harness/requests.ts"
import { legacyPlace, type Piece, Ring } from "../harness/ring.ts"
import { COMMON, F, INDIRECT, LEGACY_UP, mask, NEXT, STATUS, T, UP, WRITE } from "../harness/words.ts"
import { SECTOR, sectorsOf } from "./sector-model.ts"

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
  readonly guest: ModernGuest | LegacyGuest
  readonly rings = new Map<number, Ring>()
  readonly flights = new Map<string, Flight>()
  readonly eventIdx: boolean
  readonly #rng: Rng
  readonly #vm: Machine
  #top: number
  #features = 0n

  constructor(rng: Rng, vm: Machine, disk: AttachedDisk) {
    this.#rng = rng
    this.#vm = vm
    this.#top = rng.between(1, 64) * 256
    this.guest = rng.chance(0.3) ? new LegacyGuest(vm, disk.slot) : new ModernGuest(vm, disk.slot)
    this.eventIdx = rng.chance(0.5)
  }

  /** Uses all RAM for its own things, then drives the device to DRIVER_OK without waiting for anything. */
  start(): void {
    const { guest } = this
    this.#vm.ram.fill(this.#rng.below(256))
    // Without FLUSH the device writes through: each write is flushed before it is answered.
    const maybe = [F.FLUSH, F.DISCARD, F.WRITE_ZEROES].filter(() => this.#rng.chance(0.7))
    const wanted = [F.INDIRECT_DESC, F.MQ, ...maybe, ...(this.eventIdx ? [F.EVENT_IDX] : [])]
    this.#features = mask(...wanted, ...(guest instanceof ModernGuest ? [F.VERSION_1, F.RING_RESET] : [])) & BigInt(guest.offered)
    guest.negotiate(this.#features)
    for (let queue = 0; queue < QUEUES; queue++) this.openQueue(queue)
    guest.status = guest instanceof ModernGuest ? UP : LEGACY_UP
  }

  openQueue(queue: number): void {
    const { guest } = this
    const base = this.alloc(legacyPlace(0, QUEUE_SIZE).length, 4096)
    const ring = new Ring(this.#vm, { index: queue, size: QUEUE_SIZE, base }).clear()
    this.rings.set(queue, ring)
    if (guest instanceof LegacyGuest) guest.place(queue, base / 4096)
    else guest.enable(queue, ring)
  }

  /** What a driver sees of a device that has been reset: everything is as after power-on, at once. Returns what is wrong. */
  reset(): string | undefined {
    const { guest } = this
    guest.status = 0
    if (guest.status !== 0) return `the status reads ${guest.status} after a reset`
    if (guest.readIsr() !== 0) return "an interrupt is left after a reset"
    if (guest instanceof LegacyGuest) return undefined
    for (let queue = 0; queue < QUEUES; queue++) {
      if (guest.queueRegister(queue, COMMON.queueEnable, 2) !== 0) return `queue ${queue} is enabled after a reset`
      if (guest.queueRegister(queue, COMMON.queueDesc, 4) !== 0) return `queue ${queue} keeps its address after a reset`
    }
    return undefined
  }

  get canResetQueues(): boolean {
    return this.guest instanceof ModernGuest
  }

  /** Resets one queue. Returns what is wrong. */
  resetQueue(queue: number): string | undefined {
    const { guest } = this
    if (!(guest instanceof ModernGuest)) return undefined
    guest.setQueueRegister(queue, COMMON.queueReset, 2, 1)
    const registers = [guest.queueRegister(queue, COMMON.queueReset, 2), guest.queueRegister(queue, COMMON.queueEnable, 2)]
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
    const head = this.#freeDescriptors(queue)[0]
    const offered = [[F.FLUSH, T.FLUSH], [F.DISCARD, T.DISCARD], [F.WRITE_ZEROES, T.WRITE_ZEROES]] as const
    const others = offered.filter(([feature]) => (this.#features & mask(feature)) !== 0n).map(([, other]) => other)
    const type = rng.pick([T.IN, T.IN, T.IN, T.OUT, T.OUT, T.OUT, ...others])
    const first = AREA * queue + rng.below(AREA)
    const free = this.#freeSectors(queue, first)
    if (head === undefined || (free === 0 && type !== T.FLUSH)) return undefined
    const count = type === T.FLUSH ? 0 : rng.between(1, free)
    const out = type === T.OUT
      ? sectorsOf(value, count)
      : type === T.IN || type === T.FLUSH ? new Uint8Array(0) : ranges(...cut(rng, first, count))
    const readable = this.#scatter(
      Uint8Array.from([...header({ type, sector: type === T.IN || type === T.OUT ? first : 0 }), ...out]),
      false,
    )
    const writable = this.#scatter(new Uint8Array(type === T.IN ? count * SECTOR : 0).fill(STALE), true)
    const status = this.alloc(1)
    this.#vm.ram[status] = STALE
    const pieces = [...readable, ...writable, { address: status, length: 1, writable: true }]
    const table = this.alloc(16 * pieces.length, 16)
    const ring = this.rings.get(queue)
    for (const [at, piece] of pieces.entries()) {
      const isLast = at === pieces.length - 1
      ring?.describe(at, piece.address, piece.length, (piece.writable ? WRITE : 0) | (isLast ? 0 : NEXT), isLast ? 0 : at + 1, table)
    }
    ring?.describe(head, table, 16 * pieces.length, INDIRECT)
    const data = writable.map(({ address, length }) => ({ start: Number(address), end: Number(address) + length }))
    const flight = { queue, head, type, first, count, value, data, status, errors }
    this.flights.set(`${queue}:${head}`, flight)
    return flight
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
    return [...[...this.rings.values()].map(({ used, size }) => ({ start: used, end: used + 6 + 8 * size })), ...flights]
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
