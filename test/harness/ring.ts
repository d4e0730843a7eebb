/** A split virtqueue, written byte by byte into the RAM of a Machine ([VIRTIO] 2.7). It checks nothing: tests break the rules with it. */
import type { Machine } from "../../src/vmm/machine.ts"
import { header } from "./requests.ts"
import { INDIRECT, NEXT, T, UNTOUCHED, WRITE } from "./words.ts"

/** Guest-physical addresses of a ring's parts, and its number of descriptors. */
export interface RingPlace {
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
}

export interface RingOptions {
  /** Default 16. */
  readonly size?: number
  /** Default 0x10000; a multiple of 4096. The parts have the layout of the legacy interface, which suits the modern one as well. */
  readonly base?: number
  /** Addresses of the parts, in place of `base`. */
  readonly place?: Omit<RingPlace, "size"> | undefined
  /** The address of the buffers of `prepare`, 0x2000 bytes for each request. Default 0x40000. */
  readonly buffers?: number
  /** What holds the part that the device writes, if it is not where the others are; its place is relative to this. */
  readonly usedVm?: Pick<Machine, "ram">
  /** The queue's index. Default 0. */
  readonly index?: number
  /** The guest is big-endian. Default: little-endian. */
  readonly isBigEndian?: boolean
}

/** A stretch of guest RAM in a chain. */
export interface Piece {
  readonly address: number | bigint
  readonly length: number
  readonly writable: boolean
}

export interface Used {
  readonly id: number
  readonly length: number
}

/** A request that `prepare` has put into RAM. */
export interface Prepared {
  readonly head: number
  readonly header: number
  readonly data: number
  readonly statusAt: number
}

/** A view that always reads and writes big-endian numbers. */
class BigEndianView extends DataView<ArrayBufferLike> {
  override getUint16(at: number): number {
    return super.getUint16(at, false)
  }

  override setUint16(at: number, value: number): void {
    super.setUint16(at, value, false)
  }

  override getUint32(at: number): number {
    return super.getUint32(at, false)
  }

  override setUint32(at: number, value: number): void {
    super.setUint32(at, value, false)
  }

  override setBigUint64(at: number, value: bigint): void {
    super.setBigUint64(at, value, false)
  }
}

/** The legacy layout of a ring at `base`, and its length in bytes ([VIRTIO] 2.7.2). */
export function legacyPlace(base: number, size: number): RingPlace & { readonly length: number } {
  const used = Math.ceil((18 * size + 6) / 4096) * 4096
  return { size, desc: base, avail: base + 16 * size, used: base + used, length: used + 6 + 8 * size }
}

export class Ring implements RingPlace {
  readonly vm: Pick<Machine, "ram">
  readonly usedVm: Pick<Machine, "ram">
  readonly index: number
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  readonly buffers: number
  readonly isBigEndian: boolean
  /** The used index that `takeUsed` reads next. */
  lastUsed = 0
  /** `chain` takes this descriptor next. */
  nextDesc = 0

  constructor(vm: Pick<Machine, "ram">, options: RingOptions = {}) {
    this.vm = vm
    this.usedVm = options.usedVm ?? vm
    this.index = options.index ?? 0
    this.size = options.size ?? 16
    const { desc, avail, used } = options.place ?? legacyPlace(options.base ?? 0x1_0000, this.size)
    this.desc = desc
    this.avail = avail
    this.used = used
    this.buffers = options.buffers ?? 0x4_0000
    this.isBigEndian = options.isBigEndian ?? false
  }

  /** A view of RAM, made for each access, because RAM may have been replaced. */
  get ram(): DataView {
    return this.#viewOf(this.vm)
  }

  /** The same of the part that the device writes. */
  get usedRam(): DataView {
    return this.#viewOf(this.usedVm)
  }

  #viewOf({ ram: { buffer, byteOffset, byteLength } }: Pick<Machine, "ram">): DataView {
    const View = this.isBigEndian ? BigEndianView : DataView
    return new View(buffer, byteOffset, byteLength)
  }

  /** Zeroes all three parts, as a driver must before it enables the queue. */
  clear(): this {
    const { ram } = this.vm
    ram.fill(0, this.desc, this.desc + 16 * this.size)
    ram.fill(0, this.avail, this.avail + 6 + 2 * this.size)
    this.usedVm.ram.fill(0, this.used, this.used + 6 + 8 * this.size)
    this.lastUsed = 0
    return this
  }

  // --- Descriptors ---

  /** Entry `index` of the ring's own table, or of the indirect table at `table`. */
  describe(index: number, address: number | bigint, length: number, flags: number, next = 0, table = this.desc): void {
    const { ram } = this
    const at = table + 16 * index
    ram.setBigUint64(at, BigInt(address), true)
    ram.setUint32(at + 8, length, true)
    ram.setUint16(at + 12, flags, true)
    ram.setUint16(at + 14, next, true)
  }

  /** Takes the next descriptor. Returns its index. */
  takeDescriptor(): number {
    return this.nextDesc++ % this.size
  }

  /** Chains `pieces` in the next descriptors. `more`: one more descriptor follows them. Returns the head. */
  chain(pieces: readonly Piece[], { more = false } = {}): number {
    const head = this.nextDesc % this.size
    for (const [at, piece] of pieces.entries()) {
      const index = this.takeDescriptor()
      const isLast = at === pieces.length - 1 && !more
      this.describe(
        index,
        piece.address,
        piece.length,
        (piece.writable ? WRITE : 0) | (isLast ? 0 : NEXT),
        isLast ? 0 : this.nextDesc % this.size,
      )
    }
    return head
  }

  /** Chains `pieces`, followed by a descriptor for the indirect table of `bytes` at `table`. Returns the head. */
  chainWithTable(pieces: readonly Piece[], table: number, bytes: number): number {
    const head = this.chain(pieces, { more: true })
    this.describe(this.takeDescriptor(), table, bytes, INDIRECT)
    return head
  }

  /** Writes an indirect table of `pieces` to `address`. */
  table(pieces: readonly Piece[], address: number): void {
    for (const [at, piece] of pieces.entries()) {
      const isLast = at === pieces.length - 1
      this.describe(at, piece.address, piece.length, (piece.writable ? WRITE : 0) | (isLast ? 0 : NEXT), isLast ? 0 : at + 1, address)
    }
  }

  // --- The available ring ---

  /** Makes heads available: the entries first, then the index. */
  publish(...heads: readonly number[]): void {
    const { ram, availIdx } = this
    for (const [at, head] of heads.entries()) ram.setUint16(this.avail + 4 + 2 * ((availIdx + at) % this.size), head, true)
    this.availIdx = (availIdx + heads.length) % 65536
  }

  get availIdx(): number {
    return this.ram.getUint16(this.avail + 2, true)
  }

  set availIdx(value: number) {
    this.ram.setUint16(this.avail + 2, value, true)
  }

  set availFlags(value: number) {
    this.ram.setUint16(this.avail, value, true)
  }

  set usedEvent(value: number) {
    this.ram.setUint16(this.avail + 4 + 2 * this.size, value % 65536, true)
  }

  // --- The used ring ---

  get usedFlags(): number {
    return this.usedRam.getUint16(this.used, true)
  }

  get usedIdx(): number {
    return this.usedRam.getUint16(this.used + 2, true)
  }

  get availEvent(): number {
    return this.usedRam.getUint16(this.used + 4 + 8 * this.size, true)
  }

  usedEntry(index: number): Used {
    const at = this.used + 4 + 8 * (index % this.size)
    return { id: this.usedRam.getUint32(at, true), length: this.usedRam.getUint32(at + 4, true) }
  }

  /** The entries that the device has added since the last call. */
  takeUsed(): Used[] {
    const entries: Used[] = []
    for (const end = this.usedIdx; this.lastUsed !== end; this.lastUsed = (this.lastUsed + 1) % 65536) {
      entries.push(this.usedEntry(this.lastUsed))
    }
    return entries
  }

  // --- Requests at places of their own ---

  /** Puts header, `length` bytes of data (none for 0) and status into descriptors 3*slot and up, without making them available. */
  prepare(type: number, sector: number, length: number, slot = 0): Prepared {
    const at = this.buffers + 0x2000 * slot
    const request = { head: 3 * slot, header: at, statusAt: at + 0x10, data: at + 0x1000 }
    this.vm.ram.set(header({ type, sector }), at)
    this.ram.setUint8(request.statusAt, UNTOUCHED)
    const writable = type === T.IN || type === T.GET_ID ? WRITE : 0
    this.describe(request.head, at, 16, NEXT, length === 0 ? request.head + 2 : request.head + 1)
    if (length !== 0) this.describe(request.head + 1, request.data, length, NEXT | writable, request.head + 2)
    this.describe(request.head + 2, request.statusAt, 1, WRITE)
    return request
  }

  /** Prepares a request, and makes it available. */
  request(type: number, sector: number, length: number, slot = 0): Prepared {
    const request = this.prepare(type, sector, length, slot)
    this.publish(request.head)
    return request
  }

  status(request: Prepared): number {
    return this.vm.ram[request.statusAt] ?? NaN
  }

  data(request: Prepared, length: number): Uint8Array {
    return this.vm.ram.slice(request.data, request.data + length)
  }
}
