/**
 * A device, and a guest whose driver costs next to nothing: descriptors may be laid out once, so that a batch only stores sectors, heads
 * and the available index. What is left to measure is the device.
 */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import type { VirtioBlkOptions } from "../../src/virtio/blk/config.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { LinearMemory } from "../../src/virtio/guest-memory.ts"
import { VirtioMmio } from "../../src/virtio/mmio/mmio-transport.ts"
import { VirtioPciFunction } from "../../src/virtio/pci/pci-transport.ts"
import { type GuestDriver, LAYOUT, PackedGuest, SplitGuest } from "./guest-drivers.ts"
import { HandFused } from "./ring/hand-fused.ts"
import { pageAligned } from "./image.ts"

const RAM_BYTES = 1 << 26
const { DESC, AVAIL, USED, HEADERS, STATUSES, DATA } = LAYOUT

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
  /** `HandFused` serves the requests in the device's place. */
  readonly fused?: boolean
  /** Options of the device. */
  readonly disk?: VirtioBlkOptions
}

export class GuestRing {
  readonly device: VirtioBlk
  readonly #fn: VirtioPciFunction | undefined
  readonly #mmio: VirtioMmio | undefined
  readonly #data: DataView
  readonly #driver: GuestDriver
  readonly #options: GuestRingOptions
  readonly #isIntx: boolean
  /**
   * A kick: what the guest does, and what the device does. They are called from one place, which V8 takes for a call of anything: it does
   * not inline the device into the guest, as it does not into an emulator, now more and now less of it.
   */
  readonly #steps: readonly ((offsets: Float64Array, first: number) => void)[]

  constructor(options: GuestRingOptions) {
    this.#options = options
    this.#isIntx = options.intx === true
    const ram = options.shared === true ? new Uint8Array(new SharedArrayBuffer(RAM_BYTES)) : pageAligned(RAM_BYTES)
    this.#data = new DataView(ram.buffer, ram.byteOffset, ram.length)
    const { batch, segments = 1, placement } = options
    const part = Math.floor(options.bytes / segments)
    const requests = {
      data: this.#data, batch, segments, part, stride: part + (placement === "apart" ? 4096 : 0), isRead: options.type === "read",
      isIndirect: options.indirect === true, isGeneral: options.general === true, rewrites: options.rewrites === true,
    }
    const driver = options.packed === true ? new PackedGuest(requests) : new SplitGuest(requests)
    this.#driver = driver
    const fused = options.fused === true ? new HandFused(ram, options.backing) : undefined
    this.#steps = [(offsets, first) => driver.prepare(offsets, first), fused === undefined ? () => this.notify() : () => fused.serve()]
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
    for (const step of this.#steps) step(offsets, first)
    if (this.#isIntx && this.#takeInterrupt() !== 1) throw new Error("the device has not interrupted")
    // A turn of the device's may end before: where the host's file calls are slow, 64 of them take longer. Another kick goes on.
    for (let turns = 1; !this.#driver.isBack(); turns++) {
      if (turns > 100) throw new Error("the device has not answered every request")
      this.notify()
    }
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
    this.#driver.prepare(offsets, first)
  }

  /** Checks the last batch. @throws Error unless it succeeded */
  check(): void {
    for (let i = 0; i < this.#options.batch; i++) {
      if (this.#data.getUint8(STATUSES + i) !== 0) throw new Error(`request ${i} failed with status ${this.#data.getUint8(STATUSES + i)}`)
    }
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
      [0x38, this.#driver.ringSize], [0x80, DESC],
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
    write(0x18, 2, this.#driver.ringSize)
    write(0x20, 4, DESC)
    write(0x28, 4, AVAIL)
    write(0x30, 4, USED)
    write(0x1c, 2, 1)
    write(0x14, 1, 0x0f)
    if (fn.barRead(4, 0x14, 1) !== 0x0f) throw new Error("the device refused the driver")
  }

  /** The headers of all requests, and what is asked of the device. */
  #layOut(): void {
    const { batch, type, packed, intx, segments = 1, indirect } = this.#options
    if (batch * (indirect === true ? 1 : segments + 2) > this.#driver.ringSize) throw new Error(`${batch} requests do not fit`)
    for (let request = 0; request < batch; request++) {
      this.#data.setUint32(HEADERS + 16 * request, type === "read" ? 0 : 1, true)
      this.#data.setUint8(STATUSES + request, 0xff)
    }
    // RING_EVENT_FLAGS_DISABLE. A split ring is quiet with EVENT_IDX: its event lies 65536 entries ahead.
    if (packed === true && intx !== true) this.#data.setUint16(AVAIL + 2, 1, true)
  }
}
