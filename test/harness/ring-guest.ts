/**
 * RingGuest: a guest that writes its rings by hand, word for word, and takes back what the device returns. It checks nothing:
 * breaking the rules is what it is for.
 */
import { type GuestOptions, GuestRegisters } from "./guest-registers.ts"
import { F, header, INDIRECT, NEXT, type Piece, type Request, UNTOUCHED, WRITE, T, CONFIG_IRQ } from "./guest-words.ts"

export * from "./guest-words.ts"

/** Where the parts of a request lie in RAM. */
export interface Placed {
  readonly header: number
  readonly out: number
  readonly in: number
  readonly inLength: number
  readonly status: number
  /** Header, data out, data in, status: those that are not empty. */
  readonly pieces: readonly Piece[]
}

/** What became of a request. */
export interface Reply {
  readonly status: number
  /** The used length. */
  readonly length: number
  /** The writable data area as it is afterwards. */
  readonly data: Uint8Array
}

export interface Used {
  readonly id: number
  readonly length: number
}

/** How a chain is laid out: so many descriptors in the ring, the rest in an indirect table. */
export interface Layout {
  readonly indirect?: boolean
  /** With `indirect`: descriptors in the ring before the one that refers to the table. Default 0. */
  readonly direct?: number
}

/** The three parts of one ring, and how far the driver has come. */
export interface Ring {
  readonly index: number
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  /** avail.idx as stored. */
  idx: number
  lastUsed: number
  /** The next descriptor that `chain` takes. */
  nextDesc: number
}

export interface RingGuestOptions extends GuestOptions {
  /** Bits to accept, as far as they are offered. Default: INDIRECT_DESC, FLUSH, DISCARD, WRITE_ZEROES, RING_RESET. */
  readonly features?: readonly number[]
  /** Descriptors of each ring. Default: what the device offers. */
  readonly ringSize?: number
  readonly queues?: number
  /** Where the parts of ring 0 go, instead of where there is room. */
  readonly place?: { readonly desc: number; readonly avail: number; readonly used: number }
}

const DEFAULT_FEATURES = [F.INDIRECT_DESC, F.FLUSH, F.DISCARD, F.WRITE_ZEROES, F.RING_RESET]

export class RingGuest extends GuestRegisters {
  rings: Ring[] = []
  /** The ring that is meant where none is named. */
  ring: Ring = NO_RING
  readonly #options: RingGuestOptions

  constructor(options: RingGuestOptions) {
    super(options)
    this.#options = options
    this.start()
  }

  /** Resets the device and drives it to DRIVER_OK with the rings of the options, anew and zeroed. Returns the status then. */
  start(features: readonly number[] = this.#options.features ?? DEFAULT_FEATURES): number {
    this.top = 0x1000
    this.rings = []
    this.status = 0
    this.status = 0x01
    this.status = 0x03
    const wanted = (this.legacy ? features : [...features, F.VERSION_1]).reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n)
    this.acceptFeatures(wanted & this.offeredFeatures())
    if (!this.legacy) this.status = 0x0b
    for (let queue = 0; queue < (this.#options.queues ?? 1); queue++) this.rings.push(this.openRing(queue))
    this.ring = this.rings[0] ?? NO_RING
    this.status = this.legacy ? 0x07 : 0x0f
    this.machine.interrupts.takeMessages()
    return this.status
  }

  /** Gives the device a fresh, zeroed ring for `queue`, of the size of the options, and enables it. */
  openRing(queue: number, size = this.#options.ringSize): Ring {
    if (this.legacy) return this.#openLegacyRing(queue)
    this.setCommon(0x16, 2, queue)
    const n = size ?? this.common(0x18, 2)
    const place = queue === 0 ? this.#options.place : undefined
    const desc = place?.desc ?? this.alloc(16 * n, 16)
    const avail = place?.avail ?? this.alloc(6 + 2 * n, 2)
    const used = place?.used ?? this.alloc(6 + 8 * n, 4)
    this.fill(desc, 16 * n, 0)
    this.fill(avail, 6 + 2 * n, 0)
    this.fill(used, 6 + 8 * n, 0)
    this.setCommon(0x18, 2, n)
    this.setCommon(0x1a, 2, 1 + queue)
    for (const [register, address] of [[0x20, desc], [0x28, avail], [0x30, used]] as const) {
      this.setCommon(register, 4, address % 2 ** 32)
      this.setCommon(register + 4, 4, Math.floor(address / 2 ** 32))
    }
    this.setCommon(0x10, 2, CONFIG_IRQ)
    this.setCommon(0x1c, 2, 1)
    return { index: queue, size: n, desc, avail, used, idx: 0, lastUsed: 0, nextDesc: 0 }
  }

  /** [VIRTIO] 2.7.2: one piece, the used ring on the next page. */
  #openLegacyRing(queue: number): Ring {
    this.legacyWrite(0x0e, 2, queue)
    const size = this.legacyRead(0x0c, 2)
    const availEnd = 16 * size + 6 + 2 * size
    const usedOffset = Math.ceil(availEnd / 4096) * 4096
    const desc = this.alloc(usedOffset + 6 + 8 * size, 4096)
    this.fill(desc, usedOffset + 6 + 8 * size, 0)
    this.legacyWrite(0x08, 4, desc / 4096)
    return { index: queue, size, desc, avail: desc + 16 * size, used: desc + usedOffset, idx: 0, lastUsed: 0, nextDesc: 0 }
  }

  // --- The ring -----------------------------------------------------------------------------------------------------------------

  /** Entry `index` of the table at `table`. */
  writeEntry(table: number, index: number, address: number | bigint, length: number, flags: number, next = 0): void {
    const { data } = this
    const at = table + 16 * index
    data.setBigUint64(at, BigInt(address), true)
    data.setUint32(at + 8, length, true)
    data.setUint16(at + 12, flags, true)
    data.setUint16(at + 14, next, true)
  }

  desc(index: number, address: number | bigint, length: number, flags: number, next = 0, ring = this.ring): void {
    this.writeEntry(ring.desc, index, address, length, flags, next)
  }

  /** Writes a chain into the next descriptors, and an indirect table where the layout wants one. Returns the head. */
  chain(pieces: readonly Piece[], layout: Layout = {}, ring = this.ring): number {
    const direct = layout.indirect === true ? (layout.direct ?? 0) : pieces.length
    const take = () => ring.nextDesc++ % ring.size
    const head = ring.nextDesc % ring.size
    for (const [at, piece] of pieces.slice(0, direct).entries()) {
      const index = take()
      const last = at === direct - 1 && layout.indirect !== true
      this.desc(index, piece.address, piece.length, (piece.writable ? WRITE : 0) | (last ? 0 : NEXT), last ? 0 : ring.nextDesc % ring.size, ring)
    }
    if (layout.indirect === true) {
      const rest = pieces.slice(direct)
      this.desc(take(), this.table(rest), 16 * rest.length, INDIRECT, 0, ring)
    }
    return head
  }

  /** An indirect table of these pieces, one after the other. Returns its address. */
  table(pieces: readonly Piece[]): number {
    const table = this.alloc(16 * pieces.length, 16)
    for (const [at, piece] of pieces.entries()) {
      const last = at === pieces.length - 1
      this.writeEntry(table, at, piece.address, piece.length, (piece.writable ? WRITE : 0) | (last ? 0 : NEXT), last ? 0 : at + 1)
    }
    return table
  }

  /** Makes heads available: slots first, then the index. */
  publish(heads: readonly number[], ring = this.ring): void {
    for (const [at, head] of heads.entries()) this.setU16(ring.avail + 4 + 2 * ((ring.idx + at) % ring.size), head)
    ring.idx = (ring.idx + heads.length) % 65536
    this.setU16(ring.avail + 2, ring.idx)
  }

  kick(ring = this.ring): void {
    this.kickQueue(ring.index)
  }

  usedIdx(ring = this.ring): number {
    return this.u16(ring.used + 2)
  }

  usedElement(index: number, ring = this.ring): Used {
    const at = ring.used + 4 + 8 * (index % ring.size)
    return { id: this.data.getUint32(at, true), length: this.data.getUint32(at + 4, true) }
  }

  /** What has come back since the last call. */
  takeUsed(ring = this.ring): Used[] {
    const elements: Used[] = []
    for (const end = this.usedIdx(ring); ring.lastUsed !== end; ring.lastUsed = (ring.lastUsed + 1) % 65536) elements.push(this.usedElement(ring.lastUsed, ring))
    return elements
  }

  usedFlags(ring = this.ring): number {
    return this.u16(ring.used)
  }

  availEvent(ring = this.ring): number {
    return this.u16(ring.used + 4 + 8 * ring.size)
  }

  setAvailFlags(value: number, ring = this.ring): void {
    this.setU16(ring.avail, value)
  }

  setUsedEvent(value: number, ring = this.ring): void {
    this.setU16(ring.avail + 4 + 2 * ring.size, value % 65536)
  }

  /** The interrupts since the last call, by MSI-X message: CONFIG_IRQ, or 1 + queue. */
  irqs(): number[] {
    return this.machine.interrupts.takeMessages().map(({ data }) => data)
  }

  /** Interrupts of queue 0 since the last call. */
  queueIrqs(): number {
    return this.irqs().filter((data) => data === 1).length
  }

  // --- Requests -------------------------------------------------------------------------------------------------------------------

  /** Puts the parts of a request into RAM, apart from each other. */
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

  /** What is in RAM of a request now; the used length is the caller's to find. */
  reply(placed: Placed, length: number): Reply {
    return { status: this.machine.ram[placed.status] ?? -1, length, data: this.bytes(placed.in, placed.inLength) }
  }

  /** Runs one request to its end. Throws when the device has not returned it by the time the kick is over. */
  run(request: Request, layout: Layout = {}, ring = this.ring): Reply {
    const mark = this.top
    const placed = this.place(request)
    const length = this.runPieces(placed.pieces, layout, ring)
    const reply = this.reply(placed, length)
    this.top = mark
    return reply
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

const NOTHING = new Uint8Array(0)
const NO_RING: Ring = { index: 0, size: 0, desc: 0, avail: 0, used: 0, idx: 0, lastUsed: 0, nextDesc: 0 }
