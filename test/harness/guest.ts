/** RingGuest: a machine with one virtio block device, and a guest that drives it by hand and checks nothing. */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { type AttachDiskOptions, Machine, type MachineOptions } from "../../src/vmm/machine.ts"
import { settled } from "./fake-disk.ts"
import { GuestHeap } from "./heap.ts"
import type { Width } from "./pci.ts"
import { LegacyGuest, ModernGuest } from "./registers.ts"
import { header, type Request } from "./requests.ts"
import { PackedRing } from "./packed-ring.ts"
import { legacyPlace, type Piece, Ring, type RingPlace, type Used } from "./ring.ts"
import { COMMON, F, LEGACY_UP, mask, T, UNTOUCHED, UP } from "./words.ts"

/** The MSI-X message of configuration changes. Queue q sends message 1 + q. */
export const CONFIG_IRQ = 0

/** The kind of rings of guests that do not choose one. both-rings.ts sets it. */
export const guestRings = { packed: false }

/** The places of a request's parts in RAM. */
export interface Placed {
  readonly header: number
  readonly out: number
  readonly in: number
  readonly inLength: number
  readonly status: number
  /** The parts that are not empty: header, data out, data in, status. */
  readonly pieces: readonly Piece[]
}

/** A request as it is in RAM after the device has returned it. */
export interface Reply {
  readonly status: number
  /** The used length. */
  readonly length: number
  /** The writable data. */
  readonly data: Uint8Array
}

/** The layout of a chain: a number of descriptors in the ring, and the rest in an indirect table. */
export interface Layout {
  readonly indirect?: boolean
  /** With `indirect`: descriptors in the ring before the one that refers to the table. Default 0. */
  readonly direct?: number
}

export interface RingGuestOptions {
  readonly backing: VirtioBacking
  /** Drives the legacy interface. */
  readonly legacy?: boolean
  /** The rings are packed, so chains must be published in the order in which they were made. Default: `guestRings`. */
  readonly packed?: boolean | undefined
  readonly machine?: MachineOptions
  readonly disk?: AttachDiskOptions
  /** Feature bits to accept if they are offered. Default: INDIRECT_DESC, FLUSH, DISCARD, WRITE_ZEROES, RING_RESET. */
  readonly features?: readonly number[]
  /** Descriptors of each ring. Default: the device's maximum. */
  readonly ringSize?: number
  readonly queues?: number
  /** Addresses of the parts of ring 0. Default: allocated. */
  readonly place?: Omit<RingPlace, "size">
}

const DEFAULT_FEATURES = [F.INDIRECT_DESC, F.FLUSH, F.DISCARD, F.WRITE_ZEROES, F.RING_RESET]
const NOTHING = new Uint8Array(0)

export class RingGuest extends GuestHeap {
  readonly disk: ReturnType<Machine["attachDisk"]>
  readonly registers: ModernGuest | LegacyGuest
  rings: Ring[] = []
  /** The default ring of all methods. */
  ring: Ring
  readonly #options: RingGuestOptions
  readonly #isPacked: boolean
  readonly #bells: (() => void)[] = []

  constructor(options: RingGuestOptions) {
    super(new Machine(options.machine ?? { ramSize: 16 << 20 }))
    this.#options = options
    this.#isPacked = options.packed ?? (guestRings.packed && options.legacy !== true)
    this.disk = this.machine.attachDisk(
      options.backing, { ...(this.#isPacked && { withFeatures: ["RING_PACKED"] }), ...options.disk },
    )
    const { machine, disk: { slot } } = this
    this.registers = options.legacy === true ? new LegacyGuest(machine, slot) : new ModernGuest(machine, slot)
    if (options.legacy !== true) this.#programVectors()
    this.ring = new Ring(machine)
    this.start()
  }

  #programVectors(): void {
    const { registers } = this
    const vectors = Number.isNaN(registers.msixAt) ? 0 : (registers.config(registers.msixAt + 2, 2) % 2048) + 1
    for (let vector = 0; vector < vectors; vector++) registers.programVector(vector, { address: 0xfee0_0000, data: vector })
  }

  /** Resets the device and drives it to DRIVER_OK with fresh, zeroed rings as in the options. Returns the status. */
  start(features: readonly number[] = this.#options.features ?? DEFAULT_FEATURES): number {
    this.top = 0x1000
    this.registers.negotiate(
      mask(...features, ...(this.legacy ? [] : [F.VERSION_1]), ...(this.#isPacked ? [F.RING_PACKED] : [])) & this.offered,
    )
    this.rings = Array.from({ length: this.#options.queues ?? 1 }, (_, queue) => this.openRing(queue))
    this.ring = this.rings[0] ?? this.ring
    this.status = this.legacy ? LEGACY_UP : UP
    this.machine.interrupts.takeMessages()
    return this.status
  }

  /** Gives the device a fresh, zeroed ring for `queue`, and enables it. */
  openRing(queue: number, size = this.#options.ringSize): Ring {
    const { machine, registers } = this
    if (registers instanceof LegacyGuest) {
      const n = registers.queueSize(queue)
      const ring = new Ring(machine, { index: queue, size: n, base: this.alloc(legacyPlace(0, n).length, 4096) }).clear()
      registers.place(queue, ring.desc / 4096)
      return ring
    }
    const n = size ?? registers.queueRegister(queue, COMMON.queueSize, 2)
    const RingOf = this.#isPacked ? PackedRing : Ring
    const [avail, used] = this.#isPacked ? [4, 4] : [6 + 2 * n, 6 + 8 * n]
    const free = () => ({ desc: this.alloc(16 * n, 16), avail: this.alloc(avail, 4), used: this.alloc(used, 4) })
    const ring = new RingOf(machine, { index: queue, size: n, place: (queue === 0 ? this.#options.place : undefined) ?? free() }).clear()
    registers.setQueueRegister(queue, COMMON.queueVector, 2, 1 + queue)
    registers.common.write(COMMON.configVector, 2, CONFIG_IRQ)
    registers.enable(queue, ring)
    return ring
  }

  // --- Registers ---

  get legacy(): boolean {
    return this.registers instanceof LegacyGuest
  }

  /** Ring 0 of a guest with packed rings. */
  get packedRing(): PackedRing {
    if (this.ring instanceof PackedRing) return this.ring
    throw new Error("this guest has split rings")
  }

  /** The registers of the modern interface. @throws for a guest that drives the legacy one. */
  get modern(): ModernGuest {
    if (this.registers instanceof LegacyGuest) throw new Error("this guest drives the legacy interface")
    return this.registers
  }

  get status(): number {
    return this.registers.status
  }

  set status(value: number) {
    this.registers.status = value
  }

  get offered(): bigint {
    return BigInt(this.registers.offered)
  }

  offers(bit: number): boolean {
    return (this.offered & mask(bit)) !== 0n
  }

  /** A field of the device configuration space. */
  config(offset: number, width: Width): number {
    return this.registers.device.read(offset, width)
  }

  setConfig(offset: number, width: Width, value: number): void {
    this.registers.device.write(offset, width, value)
  }

  /** Sectors. */
  get capacity(): number {
    return this.registers.capacity
  }

  get data(): DataView {
    return this.ring.ram
  }

  // --- The ring ---

  desc(index: number, address: number | bigint, length: number, flags: number, next = 0): void {
    this.ring.describe(index, address, length, flags, next)
  }

  /** Entry `index` of the table at `table`. */
  writeEntry(table: number, index: number, address: number | bigint, length: number, flags: number, next = 0): void {
    this.ring.describe(index, address, length, flags, next, table)
  }

  /** Writes a chain into the next descriptors, and into an indirect table if the layout has one. Returns the head. */
  chain(pieces: readonly Piece[], { indirect = false, direct = 0 }: Layout = {}, ring = this.ring): number {
    if (!indirect) return ring.chain(pieces)
    const rest = pieces.slice(direct)
    return ring.chainWithTable(pieces.slice(0, direct), this.table(rest), 16 * rest.length)
  }

  /** Writes an indirect table of these pieces. Returns its address. */
  table(pieces: readonly Piece[]): number {
    const table = this.alloc(16 * pieces.length, 16)
    this.ring.table(pieces, table)
    return table
  }

  publish(heads: readonly number[], ring = this.ring): void {
    ring.publish(...heads)
  }

  kick(ring = this.ring): void {
    const bell = (this.#bells[ring.index] ??= this.registers.bell(ring.index))
    bell()
  }

  usedIdx(ring = this.ring): number {
    return ring.usedIdx
  }

  takeUsed(ring = this.ring): Used[] {
    return ring.takeUsed()
  }

  /** The interrupts since the last call, by MSI-X message: CONFIG_IRQ, or 1 + queue. */
  irqs(): number[] {
    return this.machine.interrupts.takeMessages().map(({ data }) => data)
  }

  /** Interrupts of queue 0 since the last call. */
  queueIrqs(): number {
    return this.irqs().filter((data) => data === 1).length
  }

  // --- Requests ---

  /** Puts the parts of a request into RAM, with gaps between them. */
  place(request: Request): Placed {
    const out = request.out ?? NOTHING
    const inLength = request.in ?? 0
    const placed = { header: this.alloc(16), out: this.alloc(out.length), in: this.alloc(inLength), inLength, status: this.alloc(1) }
    this.store(placed.header, header(request))
    this.store(placed.out, out)
    this.fill(placed.in, inLength, 0xa5)
    this.fill(placed.status, 1, UNTOUCHED)
    const pieces = [
      { address: placed.header, length: 16, writable: false },
      { address: placed.out, length: out.length, writable: false },
      { address: placed.in, length: inLength, writable: true },
      { address: placed.status, length: 1, writable: true },
    ]
    return { ...placed, pieces: pieces.filter(({ length }) => length > 0) }
  }

  /** The reply of a request that is in RAM now. The caller knows the used length. */
  reply(placed: Placed, length: number): Reply {
    return { status: this.machine.ram[placed.status] ?? -1, length, data: this.bytes(placed.in, placed.inLength) }
  }

  /** Runs one request to its end. @throws when the device has not returned it by the end of the kick. */
  run(request: Request, layout: Layout = {}, ring = this.ring): Reply {
    const mark = this.top
    const placed = this.place(request)
    const length = this.runPieces(placed.pieces, layout, ring)
    const reply = this.reply(placed, length)
    this.top = mark
    return reply
  }

  /** `run` for a request that may take longer than a turn of the host's thread. */
  async runLong(request: Request, layout: Layout = {}, ring = this.ring): Promise<Reply> {
    const mark = this.top
    const placed = this.place(request)
    this.publish([this.chain(placed.pieces, layout, ring)], ring)
    this.kick(ring)
    await this.served(ring)
    const [used] = this.takeUsed(ring)
    const reply = this.reply(placed, used?.length ?? -1)
    this.top = mark
    return reply
  }

  /** Waits until the device has returned all available chains. @throws when the device is broken */
  async served(ring = this.ring): Promise<void> {
    while (ring.usedIdx !== ring.availIdx) {
      await settled()
      const { brokenBy } = this.disk.device
      if (brokenBy !== undefined) throw brokenBy
    }
  }

  /** Runs one chain of any pieces. Returns the used length. */
  runPieces(pieces: readonly Piece[], layout: Layout = {}, ring = this.ring): number {
    const head = this.chain(pieces, layout, ring)
    this.publish([head], ring)
    this.kick(ring)
    const [used, ...more] = this.takeUsed(ring)
    if (used !== undefined && used.id === head && more.length === 0) return used.length
    const reason = this.disk.device.brokenBy?.message ?? "sound"
    throw new Error(`head ${head} was not returned, but ${JSON.stringify([used, ...more])}; device status ${this.status}: ${reason}`)
  }

  read(sector: number | bigint, sectors: number, layout: Layout = {}): Reply {
    return this.run({ type: T.IN, sector, in: 512 * sectors }, layout)
  }

  write(sector: number | bigint, data: Uint8Array, layout: Layout = {}): Reply {
    return this.run({ type: T.OUT, sector, out: data }, layout)
  }
}
