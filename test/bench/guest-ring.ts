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
  readonly #options: GuestRingOptions
  readonly #heads: number[] = []
  #idx = 0

  constructor(options: GuestRingOptions) {
    this.#options = options
    const ram = options.shared === true ? new Uint8Array(new SharedArrayBuffer(RAM_BYTES)) : pageAligned(RAM_BYTES)
    this.#data = new DataView(ram.buffer, ram.byteOffset, ram.length)
    this.device = new VirtioBlk(options.backing, options.disk)
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
    if (this.#options.intx === true && this.#takeInterrupt() !== 1) throw new Error("the device has not interrupted")
    if (this.#data.getUint16(USED + 2, true) !== this.#idx) throw new Error("the device has not answered every request")
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
    const data = this.#data
    const { batch } = this.#options
    for (let i = 0; i < batch; i++) {
      const sector = (offsets[first + i] ?? 0) / 512
      data.setUint32(HEADERS + 16 * i + 8, sector, true)
      data.setUint16(AVAIL + 4 + 2 * ((this.#idx + i) & (QUEUE_SIZE - 1)), this.#heads[i] ?? 0, true)
    }
    this.#idx = (this.#idx + batch) & 0xffff
    data.setUint16(AVAIL + 2, this.#idx, true)
  }

  /** Checks the last batch. @throws Error unless it succeeded */
  check(): void {
    for (let i = 0; i < this.#options.batch; i++) {
      if (this.#data.getUint8(STATUSES + i) !== 0) throw new Error(`request ${i} failed with status ${this.#data.getUint8(STATUSES + i)}`)
    }
  }

  /** FLUSH, INDIRECT_DESC, EVENT_IDX. */
  get #features(): number {
    return (1 << 9) | (1 << 28) | (this.#options.intx === true ? 0 : 1 << 29)
  }

  #startMmio(mmio: VirtioMmio): void {
    const registers = [
      [0x70, 0x03], [0x24, 0], [0x20, this.#features], [0x24, 1], [0x20, 1], [0x70, 0x0b], [0x30, 0], [0x38, QUEUE_SIZE], [0x80, DESC],
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
    write(0x0c, 4, 1) // VERSION_1
    write(0x14, 1, 0x0b)
    write(0x18, 2, QUEUE_SIZE)
    write(0x20, 4, DESC)
    write(0x28, 4, AVAIL)
    write(0x30, 4, USED)
    write(0x1c, 2, 1)
    write(0x14, 1, 0x0f)
    if (fn.barRead(4, 0x14, 1) !== 0x0f) throw new Error("the device refused the driver")
  }

  #layOut(): void {
    const { batch, bytes, segments = 1, type, indirect = false, placement } = this.#options
    const part = bytes / segments
    const stride = part + (placement === "apart" ? 4096 : 0)
    let data = DATA
    let next = 0 // in the ring's own table
    for (let request = 0; request < batch; request++) {
      const table = indirect ? TABLES + request * 16 * (segments + 2) : DESC
      let index = indirect ? 0 : next
      this.#heads.push(next)
      const add = (address: number, length: number, flags: number) => {
        this.#descriptor(table + 16 * index, address, length, flags, index + 1)
        index++
      }
      this.#data.setUint32(HEADERS + 16 * request, type === "read" ? 0 : 1, true)
      // A flag that means nothing, and that the reader of usual requests does not know.
      add(HEADERS + 16 * request, 16, this.#options.general === true ? 9 : 1)
      for (let segment = 0; segment < segments; segment++, data += stride) add(data, part, type === "read" ? 3 : 1)
      add(STATUSES + request, 1, 2)
      if (indirect) this.#descriptor(DESC + 16 * next++, table, 16 * (segments + 2), 4, 0)
      else next = index
      this.#data.setUint8(STATUSES + request, 0xff)
    }
    if (next > QUEUE_SIZE) throw new Error(`${next} descriptors do not fit`)
  }

  #descriptor(at: number, address: number, length: number, flags: number, next: number): void {
    this.#data.setUint32(at, address, true)
    this.#data.setUint32(at + 8, length, true)
    this.#data.setUint16(at + 12, flags, true)
    this.#data.setUint16(at + 14, next, true)
  }
}
