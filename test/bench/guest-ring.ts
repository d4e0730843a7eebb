/**
 * A driver that costs next to nothing: descriptors are laid out once, a batch only stores sectors, heads and the available index.
 * What is left to measure is the device.
 */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import type { VirtioBlkOptions } from "../../src/virtio/blk/config.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { LinearMemory } from "../../src/virtio/guest-memory.ts"
import { VirtioMmio } from "../../src/virtio/mmio/mmio-transport.ts"
import { VirtioPciFunction } from "../../src/virtio/pci/pci-transport.ts"
import { pageAligned } from "./image.ts"

const RAM_BYTES = 1 << 26
const QUEUE_SIZE = 256
const DESC = 0x1000
const AVAIL = 0x3000
const USED = 0x4000
const HEADERS = 0x6000
const STATUSES = 0x8000
const TABLES = 0x10_0000
const DATA = 0x20_0000
const [NEXT, WRITE, INDIRECT] = [1, 2, 4] as const

export interface GuestRingOptions {
  readonly backing: VirtioBacking
  /** Requests in the ring: with `segments` data descriptors each they must fit into 256 descriptors, unless indirect. */
  readonly batch: number
  /** Data bytes of a request, in so many equal segments. */
  readonly bytes: number
  readonly segments?: number
  readonly type: "read" | "write"
  readonly indirect?: boolean
  /** Where the data segments lie in RAM: each directly behind the one before, or with a gap in between. */
  readonly placement: "touching" | "apart"
  /** RAM in a SharedArrayBuffer, so that rings are accessed through Atomics. */
  readonly shared?: boolean
  /** An interrupt for each kick, by INTx: the guest reads the ISR. Otherwise the device is asked not to interrupt. */
  readonly intx?: boolean
  /** Requests that only the general walk takes. */
  readonly general?: boolean
  /** A packed ring, of as many requests as fit; the driver writes its descriptors for each, for the device writes into them. */
  readonly packed?: boolean
  /** The driver accepts IN_ORDER. */
  readonly inOrder?: boolean
  /** The driver writes its descriptors anew for each request, as real ones do, rather than lay them out once. */
  readonly rewrites?: boolean
  /** Over MMIO, where an interrupt is acknowledged by a write. Default: over PCI. */
  readonly mmio?: boolean
  /** Options of the device. */
  readonly disk?: VirtioBlkOptions
}

export class GuestRing {
  readonly device: VirtioBlk
  readonly #fn: VirtioPciFunction | undefined
  readonly #mmio: VirtioMmio | undefined
  readonly #data: DataView
  // Of the options, which have many shapes: to look into them costs 15 ns a kick, which would count as the device's.
  readonly #batch: number
  readonly #isPacked: boolean
  readonly #isIntx: boolean
  readonly #hasRewrites: boolean
  readonly #isIndirect: boolean
  readonly #isRead: boolean
  readonly #segments: number
  /** Bytes of a segment, and from the start of one to that of the next. */
  readonly #part: number
  readonly #stride: number
  /** Flags of a header's descriptor. */
  readonly #headFlags: number
  readonly #options: GuestRingOptions
  readonly #heads: number[] = []
  #idx = 0
  // Of a packed ring:
  /** Descriptors of a request, and requests in the ring. */
  readonly #slots: number
  readonly #places: number
  /** Bytes from one request to the next, and where the ring ends. */
  readonly #stepInRing: number
  readonly #ringEnd: number
  /** Where the next request goes, and the marks of an available descriptor there. */
  #nextAt = DESC
  #marks = 0x0080
  /** The last descriptor of the last batch that will be used, and its marks then. */
  #lastAt = 0
  #lastMarks = 0

  constructor(options: GuestRingOptions) {
    this.#options = options
    this.#batch = options.batch
    this.#isPacked = options.packed === true
    this.#isIntx = options.intx === true
    this.#hasRewrites = options.rewrites === true
    this.#isIndirect = options.indirect === true
    this.#isRead = options.type === "read"
    this.#segments = options.segments ?? 1
    this.#part = options.bytes / this.#segments
    this.#stride = this.#part + (options.placement === "apart" ? 4096 : 0)
    // A flag that means nothing, and that the reader of usual requests does not know.
    this.#headFlags = options.general === true ? NEXT | 8 : NEXT
    this.#slots = this.#isIndirect ? 1 : this.#segments + 2
    this.#places = Math.floor(QUEUE_SIZE / this.#slots)
    this.#stepInRing = 16 * this.#slots
    this.#ringEnd = DESC + this.#stepInRing * this.#places
    const ram = options.shared === true ? new Uint8Array(new SharedArrayBuffer(RAM_BYTES)) : pageAligned(RAM_BYTES)
    this.#data = new DataView(ram.buffer, ram.byteOffset, ram.length)
    const packed = options.packed === true ? (["RING_PACKED"] as const) : []
    const inOrder = options.inOrder === true ? (["IN_ORDER"] as const) : []
    this.device = new VirtioBlk(options.backing, { withFeatures: [...packed, ...inOrder], ...options.disk })
    const memory = new LinearMemory(ram)
    if (options.mmio === true) this.#mmio = new VirtioMmio(this.device, { memory, interrupt() {} })
    else this.#fn = new VirtioPciFunction(this.device, { memory, interrupts: { intx() {}, message() {} } })
    if (this.#mmio !== undefined) this.#startMmio(this.#mmio)
    if (this.#fn !== undefined) this.#startPci(this.#fn)
    this.#layOut()
  }

  /** RAM of the guest, for a bare loop that is to use the same destinations. */
  dataView(request: number): Uint8Array {
    const { bytes, segments = 1, placement } = this.#options
    if (placement === "apart" && segments > 1) throw new Error("the data is in pieces")
    return new Uint8Array(this.#data.buffer, this.#data.byteOffset + DATA + request * (bytes + (placement === "apart" ? 4096 : 0)), bytes)
  }

  /** One kick with `batch` requests, for the disk offsets in `offsets` from `first` on. */
  kick(offsets: Float64Array, first: number): void {
    this.prepare(offsets, first)
    this.notify()
    if (this.#isIntx && this.#takeInterrupt() !== 1) throw new Error("the device has not interrupted")
    // A turn of the device's may end before: where the host's file calls are slow, 64 of them take longer. Another kick goes on.
    for (let turns = 1; !this.#isBack(); turns++) {
      if (turns > 100) throw new Error("the device has not answered every request")
      this.notify()
    }
  }

  /** Every request has been answered. */
  #isBack(): boolean {
    return this.#isPacked
      ? (this.#data.getUint16(this.#lastAt + 14, true) & 0x8080) === this.#lastMarks
      : this.#data.getUint16(USED + 2, true) === this.#idx
  }

  /** A notification, whatever is in the ring. */
  notify(): void {
    if (this.#mmio !== undefined) this.#mmio.write(0x50, 4, 0)
    else this.#fn?.barWrite(4, 0x3000, 2, 0)
  }

  #takeInterrupt(): number | undefined {
    if (this.#mmio === undefined) return this.#fn?.barRead(4, 0x1000, 1)
    const pending = this.#mmio.read(0x60, 4)
    this.#mmio.write(0x64, 4, pending)
    return pending
  }

  /** The guest's own share of a kick: its stores, without the notification. A ring on which this was called is good for nothing else. */
  prepare(offsets: Float64Array, first: number): void {
    if (this.#isPacked) return this.#preparePacked(offsets, first)
    const data = this.#data
    const batch = this.#batch
    for (let i = 0; i < batch; i++) {
      if (this.#hasRewrites) this.#rewrite(i)
      const sector = (offsets[first + i] ?? 0) / 512
      data.setUint32(HEADERS + 16 * i + 8, sector, true)
      data.setUint16(AVAIL + 4 + 2 * ((this.#idx + i) & (QUEUE_SIZE - 1)), this.#heads[i] ?? 0, true)
    }
    this.#idx = (this.#idx + batch) & 0xffff
    data.setUint16(AVAIL + 2, this.#idx, true)
  }

  /** Writes the descriptors of a request of a split ring again. */
  #rewrite(request: number): void {
    const data = this.#data
    const segments = this.#segments
    const head = this.#heads[request] ?? 0
    const table = this.#isIndirect ? TABLES + request * 16 * (segments + 2) : DESC
    const first = this.#isIndirect ? 0 : head
    const flags = this.#isRead ? NEXT | WRITE : NEXT
    describe(data, table + 16 * first, HEADERS + 16 * request, 16, this.#headFlags, first + 1)
    for (let segment = 0; segment < segments; segment++) {
      describe(data, table + 16 * (first + 1 + segment), this.#dataAt(request, segment), this.#part, flags, first + 2 + segment)
    }
    describe(data, table + 16 * (first + 1 + segments), STATUSES + request, 1, WRITE, 0)
    if (this.#isIndirect) describe(data, DESC + 16 * head, table, 16 * (segments + 2), INDIRECT, 0)
  }

  /** The same of a packed ring, at `at`: its descriptors have flags where a split one's have `next`. The first of the ring comes last. */
  #rewritePacked(at: number, request: number, ringMarks: number): void {
    const data = this.#data
    const segments = this.#segments
    const isIndirect = this.#isIndirect
    const table = isIndirect ? TABLES + request * 16 * (segments + 2) : at
    const marks = isIndirect ? 0 : ringMarks
    const flags = (this.#isRead ? NEXT | WRITE : NEXT) | marks
    for (let segment = 0; segment < segments; segment++) {
      describe(data, table + 16 * (1 + segment), this.#dataAt(request, segment), this.#part, request, flags)
    }
    describe(data, table + 16 * (1 + segments), STATUSES + request, 1, request, WRITE | marks)
    describe(data, table, HEADERS + 16 * request, 16, request, this.#headFlags | marks)
    if (isIndirect) describe(data, at, table, 16 * (segments + 2), request, INDIRECT | ringMarks)
  }

  #dataAt(request: number, segment: number): number {
    return DATA + (request * this.#segments + segment) * this.#stride
  }

  /**
   * Buffers belong to the request of the batch, as in a split ring and as a real driver's do; the place in the ring moves on. A used
   * descriptor has a length and an id of the device's; the flags of all are of the lap before.
   */
  #preparePacked(offsets: Float64Array, first: number): void {
    const data = this.#data
    const batch = this.#batch
    let at = this.#nextAt
    let last = at
    let lastMarks = 0
    for (let i = 0; i < batch; i++) {
      data.setUint32(HEADERS + 16 * i + 8, (offsets[first + i] ?? 0) / 512, true)
      const marks = this.#marks
      this.#rewritePacked(at, i, marks)
      last = at
      lastMarks = marks
      at += this.#stepInRing
      if (at < this.#ringEnd) continue
      at = DESC
      this.#marks = marks ^ 0x8080
    }
    this.#nextAt = at
    this.#lastAt = last
    // Both set where the driver's counter is 1, none where it is 0.
    this.#lastMarks = lastMarks === 0x0080 ? 0x8080 : 0
  }

  /** Checks the last batch. @throws Error unless it succeeded */
  check(): void {
    for (let i = 0; i < this.#options.batch; i++) {
      if (this.#data.getUint8(STATUSES + i) !== 0) throw new Error(`request ${i} failed with status ${this.#data.getUint8(STATUSES + i)}`)
    }
  }

  get #ringSize(): number {
    return this.#options.packed === true ? this.#slots * this.#places : QUEUE_SIZE
  }

  /** VERSION_1, RING_PACKED, IN_ORDER. */
  get #moreFeatures(): number {
    return 1 | (this.#options.packed === true ? 4 : 0) | (this.#options.inOrder === true ? 8 : 0)
  }

  /** FLUSH, INDIRECT_DESC, EVENT_IDX. */
  get #features(): number {
    return (1 << 9) | (1 << 28) | (this.#options.intx === true ? 0 : 1 << 29)
  }

  #startMmio(mmio: VirtioMmio): void {
    const registers = [
      [0x70, 0x03], [0x24, 0], [0x20, this.#features], [0x24, 1], [0x20, this.#moreFeatures], [0x70, 0x0b], [0x30, 0],
      [0x38, this.#ringSize], [0x80, DESC],
      [0x90, AVAIL], [0xa0, USED], [0x44, 1], [0x70, 0x0f],
    ] as const
    for (const [offset, value] of registers) mmio.write(offset, 4, value)
    if (mmio.read(0x70, 4) !== 0x0f) throw new Error("the device refused the driver")
  }

  #startPci(fn: VirtioPciFunction): void {
    const write = (offset: number, width: 1 | 2 | 4, value: number) => fn.barWrite(4, offset, width, value)
    fn.configWrite(4, 2, 0x0406)
    write(0x14, 1, 0x03)
    write(0x08, 4, 0)
    write(0x0c, 4, this.#features)
    write(0x08, 4, 1)
    write(0x0c, 4, this.#moreFeatures)
    write(0x14, 1, 0x0b)
    write(0x18, 2, this.#ringSize)
    write(0x20, 4, DESC)
    write(0x28, 4, AVAIL)
    write(0x30, 4, USED)
    write(0x1c, 2, 1)
    write(0x14, 1, 0x0f)
    if (fn.barRead(4, 0x14, 1) !== 0x0f) throw new Error("the device refused the driver")
  }

  /** The headers of all requests, and the descriptors of a split ring, which may stay. */
  #layOut(): void {
    const [batch, slots] = [this.#batch, this.#slots]
    if (batch * slots > QUEUE_SIZE) throw new Error(`${batch * slots} descriptors do not fit`)
    for (let request = 0; request < batch; request++) {
      this.#data.setUint32(HEADERS + 16 * request, this.#isRead ? 0 : 1, true)
      this.#data.setUint8(STATUSES + request, 0xff)
      this.#heads.push(slots * request)
      if (!this.#isPacked) this.#rewrite(request)
    }
    // RING_EVENT_FLAGS_DISABLE. A split ring is quiet with EVENT_IDX: its event lies 65536 entries ahead.
    if (this.#isPacked && !this.#isIntx) this.#data.setUint16(AVAIL + 2, 1, true)
  }
}

function describe(data: DataView, at: number, address: number, length: number, flags: number, next: number): void {
  data.setUint32(at, address, true)
  data.setUint32(at + 8, length, true)
  data.setUint16(at + 12, flags, true)
  data.setUint16(at + 14, next, true)
}
