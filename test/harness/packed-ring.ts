/** A packed virtqueue, written byte by byte into the RAM of a Machine ([VIRTIO] 2.8). It checks nothing: tests break the rules with it. */
import type { Machine } from "../../src/vmm/machine.ts"
import { type Piece, type Prepared, Ring, type RingOptions, type Used } from "./ring.ts"
import { AVAIL, INDIRECT, NEXT, T, UNTOUCHED, USED, WRITE } from "./words.ts"
import { header } from "./requests.ts"

/** A descriptor in the ring. */
export interface PackedDescriptor {
  readonly address: bigint
  readonly length: number
  readonly id: number
  readonly flags: number
}

/** A descriptor to put into the ring. */
export interface Part {
  readonly address: number | bigint
  readonly length: number
  /** Without marks. */
  readonly flags: number
}

/** A buffer that has been written at least once. */
interface Written {
  readonly parts: readonly Part[]
  /** How many times it has been made available without coming back. */
  inFlight: number
  /** The slot of its first descriptor, and the flags with AVAIL and USED marks that `publish` stores; undefined afterwards. */
  hidden: { readonly slot: number; readonly flags: number } | undefined
}

/** The position of one side in the ring, and its wrap counter. */
export class Cursor {
  readonly size: number
  slot = 0
  wrap = true

  constructor(size: number) {
    this.size = size
  }

  advance(slots: number): void {
    this.slot += slots
    while (this.slot >= this.size) {
      this.slot -= this.size
      this.wrap = !this.wrap
    }
  }

  /** The position as in event suppression and notification data: the wrap counter is bit 15. */
  get word(): number {
    return this.slot + (this.wrap ? 0x8000 : 0)
  }
}

/** `desc` is the descriptor ring, `avail` the driver's event suppression, `used` the device's. Heads are buffer ids. */
export class PackedRing extends Ring {
  /** Where the next chain is written. */
  driver: Cursor
  /** Where the next used descriptor is expected. */
  device: Cursor
  /** `chain` takes this buffer id next. */
  nextId = 0
  #chains = new Map<number, Written>()
  #published = 0

  constructor(vm: Pick<Machine, "ram">, options: RingOptions = {}) {
    super(vm, options)
    this.driver = new Cursor(this.size)
    this.device = new Cursor(this.size)
  }

  override clear(): this {
    const { ram } = this.vm
    ram.fill(0, this.desc, this.desc + 16 * this.size)
    ram.fill(0, this.avail, this.avail + 4)
    this.usedVm.ram.fill(0, this.used, this.used + 4)
    this.driver = new Cursor(this.size)
    this.device = new Cursor(this.size)
    this.#chains.clear()
    this.lastUsed = 0
    this.nextId = 0
    this.#published = 0
    return this
  }

  // --- Descriptors ---

  /** `id` takes the place of a split ring's `next`. */
  override describe(index: number, address: number | bigint, length: number, flags: number, id = 0, table = this.desc): void {
    const { ram } = this
    const at = table + 16 * index
    ram.setBigUint64(at, BigInt(address), true)
    ram.setUint32(at + 8, length, true)
    ram.setUint16(at + 12, id, true)
    ram.setUint16(at + 14, flags, true)
  }

  descriptor(slot: number): PackedDescriptor {
    const { ram } = this
    const at = this.desc + 16 * slot
    return {
      address: ram.getBigUint64(at, true), length: ram.getUint32(at + 8, true), id: ram.getUint16(at + 12, true),
      flags: ram.getUint16(at + 14, true),
    }
  }

  setFlags(slot: number, flags: number): void {
    this.ram.setUint16(this.desc + 16 * slot + 14, flags, true)
  }

  /** The marks of an available descriptor at the driver's position. */
  get marks(): number {
    return this.driver.wrap ? AVAIL : USED
  }

  /** Writes the descriptors of a chain, but leaves the first one unavailable. Returns the buffer id. The ids of all others are junk. */
  put(parts: readonly Part[], id = this.#freeId()): number {
    const { slot } = this.driver
    let first = 0
    for (const [at, { address, length, flags }] of parts.entries()) {
      const isLast = at === parts.length - 1
      const marked = flags | this.marks
      if (at === 0) first = marked
      this.describe(this.driver.slot, address, length, at === 0 ? marked ^ AVAIL : marked, isLast ? id : 0xdead)
      this.driver.advance(1)
    }
    this.#chains.set(id, { parts, inFlight: this.#chains.get(id)?.inFlight ?? 0, hidden: { slot, flags: first } })
    return id
  }

  #freeId(): number {
    while (this.#isTaken(this.nextId)) this.nextId = (this.nextId + 1) % 0x1_0000
    const id = this.nextId
    this.nextId = (id + 1) % 0x1_0000
    return id
  }

  #isTaken(id: number): boolean {
    const chain = this.#chains.get(id)
    return chain !== undefined && (chain.inFlight > 0 || chain.hidden !== undefined)
  }

  override chain(pieces: readonly Piece[], { more = false, id }: { more?: boolean; id?: number } = {}): number {
    return this.put(pieces.map(({ address, length, writable }, at) => ({
      address, length, flags: (writable ? WRITE : 0) | (at === pieces.length - 1 && !more ? 0 : NEXT),
    })), id)
  }

  override chainWithTable(pieces: readonly Piece[], table: number, bytes: number, id?: number): number {
    const before = pieces.map(({ address, length, writable }) => ({ address, length, flags: (writable ? WRITE : 0) | NEXT }))
    return this.put([...before, { address: table, length: bytes, flags: INDIRECT }], id)
  }

  /** In a table only the flag WRITE counts. */
  override table(pieces: readonly Piece[], address: number): void {
    for (const [at, piece] of pieces.entries()) this.describe(at, piece.address, piece.length, piece.writable ? WRITE : 0, 0xdead, address)
  }

  // --- Making available ---

  /** Marks the first descriptors of these chains available. A chain that was available before is written again. */
  override publish(...ids: readonly number[]): void {
    for (const id of ids) {
      if (this.#written(id).hidden === undefined) this.put(this.#written(id).parts, id)
      const chain = this.#written(id)
      if (chain.hidden !== undefined) this.setFlags(chain.hidden.slot, chain.hidden.flags)
      chain.hidden = undefined
      chain.inFlight++
      this.#published++
    }
  }

  /** Chains made available, modulo 2^16. */
  override get availIdx(): number {
    return this.#published % 0x1_0000
  }

  override set availIdx(_: number) {
    throw new Error("a packed ring has no available index")
  }

  /** The driver's event suppression. */
  setEvents(flags: number, word = 0): void {
    this.ram.setUint16(this.avail, word, true)
    this.ram.setUint16(this.avail + 2, flags, true)
  }

  // --- Used descriptors ---

  /** The device's event suppression: slot and wrap counter, and flags. */
  get deviceEvents(): { readonly word: number; readonly flags: number } {
    return { word: this.usedRam.getUint16(this.used, true), flags: this.usedRam.getUint16(this.used + 2, true) }
  }

  /** Chains that have come back, modulo 2^16. */
  override get usedIdx(): number {
    const cursor = new Cursor(this.size)
    Object.assign(cursor, { slot: this.device.slot, wrap: this.device.wrap })
    let count = 0
    for (; count < this.size; count++) {
      const used = this.#usedAt(cursor)
      if (used === undefined) break
      cursor.advance(this.#written(used.id).parts.length)
    }
    return (this.lastUsed + count) % 0x1_0000
  }

  override takeUsed(): Used[] {
    const entries: Used[] = []
    for (let used = this.#usedAt(this.device); used !== undefined; used = this.#usedAt(this.device)) {
      entries.push(used)
      const chain = this.#written(used.id)
      this.device.advance(chain.parts.length)
      chain.inFlight--
      this.lastUsed = (this.lastUsed + 1) % 0x1_0000
    }
    return entries
  }

  #usedAt(cursor: Cursor): Used | undefined {
    const { id, length, flags } = this.descriptor(cursor.slot)
    const marks = cursor.wrap ? AVAIL | USED : 0
    return (flags & (AVAIL | USED)) === marks && (this.#chains.get(id)?.inFlight ?? 0) > 0 ? { id, length } : undefined
  }

  #written(id: number): Written {
    const chain = this.#chains.get(id)
    if (chain === undefined) throw new Error(`there is no buffer ${id}`)
    return chain
  }

  // --- Requests at places of their own ---

  override prepare(type: number, sector: number, length: number, slot = 0): Prepared {
    const at = this.buffers + 0x2000 * slot
    const [data, statusAt] = [at + 0x1000, at + 0x10]
    this.vm.ram.set(header({ type, sector }), at)
    this.ram.setUint8(statusAt, UNTOUCHED)
    const pieces = [
      { address: at, length: 16, writable: false },
      { address: data, length, writable: type === T.IN || type === T.GET_ID },
      { address: statusAt, length: 1, writable: true },
    ]
    return { head: this.chain(pieces.filter((piece) => piece.length > 0)), header: at, statusAt, data }
  }
}
