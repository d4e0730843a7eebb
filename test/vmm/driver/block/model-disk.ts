/**
 * A virtio block device in a hundred lines, legacy interface and interrupt line only, so that tests can make it lie: `answer` may
 * change what a request returns, `isHolding` keeps answers back.
 */
import { PciDevice } from "../../../../src/vmm/driver/pci/device.ts"
import type { Platform } from "../../../../src/vmm/driver/platform.ts"
import { RamAllocator } from "../../../../src/vmm/driver/ram-allocator.ts"
import { legacyRingLayout } from "../../../../src/vmm/driver/virtio/rings/ring-layout.ts"
import { fakeConfig, FakeFunction } from "../pci/fake-config.ts"
import { RingDevice, type SeenChain } from "../virtio/rings/ring-device.ts"

const IO_BASE = 0xc000
const LINE = 9

export interface Answer {
  id: number
  usedLength: number
  status: number | undefined
}

export interface SeenRequest {
  readonly type: number
  readonly sector: bigint
  readonly chain: SeenChain
}

export class ModelDisk {
  readonly ram = new Uint8Array(1 << 20)
  readonly disk = new Uint8Array(256 * 512).map((_, index) => index >> 9)
  readonly seen: SeenRequest[] = []
  /** Called for each answer before it is given. */
  answer: (answer: Answer, request: SeenRequest) => void = () => undefined
  isHolding = false
  features = 0
  queueSize = 16
  status = 0
  /** After a 0 was written: what the status reads, this many times. */
  resetReads: number[] = []
  /** Capacity as shown by successive reads of its low half; the last stays. */
  capacities = [256]
  readonly pci: PciDevice
  readonly memory = new RamAllocator({ start: 0x1000, length: this.ram.length - 0x1000 })
  readonly #listeners = new Set<() => void>()
  #held: SeenChain[] = []
  #ring: RingDevice | undefined
  #isr = 0

  constructor() {
    const fake = new FakeFunction([{ index: 0, mask: 0xff80, flags: 1 }])
    fake.data.setUint32(0x10, IO_BASE | 1, true)
    fake.data.setUint16(0x3c, 0x0100 | LINE, true)
    const platform: Platform = {
      ram: this.ram,
      portRead: (port) => this.#read(port - IO_BASE),
      portWrite: (port, _width, value) => this.#write(port - IO_BASE, value),
      mmioRead: () => 0xff,
      mmioWrite: () => undefined,
      interrupts: {
        subscribe: (listener) => {
          this.#listeners.add(listener)
          return () => this.#listeners.delete(listener)
        },
        level: (line) => line === LINE && this.#isr !== 0,
        takeMessages: () => [],
      },
    }
    this.pci = new PciDevice(platform, { bus: 0, device: 4, function: 0 }, fakeConfig({ "0:4.0": fake }))
  }

  /** Number of requests kept back. */
  get held(): number {
    return this.#held.length
  }

  /** Gives the answers that were kept back. */
  let(count = Number.POSITIVE_INFINITY): void {
    for (const chain of this.#held.splice(0, count)) this.#execute(chain)
    this.interrupt(1)
  }

  /** Sets ISR bits and raises the line. */
  interrupt(bits: number): void {
    this.#isr |= bits
    for (const listener of this.#listeners) listener()
  }

  /** Gives any used entry at all. */
  give(id: number, length: number): void {
    this.#ring?.give(id, length)
  }

  #read(offset: number): number {
    switch (offset) {
      case 0x00: return this.features
      case 0x0c: return this.queueSize
      case 0x12: return this.resetReads.shift() ?? this.status
      case 0x13: {
        const isr = this.#isr
        this.#isr = 0
        return isr
      }
      case 0x14: return (this.capacities.length > 1 ? this.capacities.shift() : this.capacities[0]) ?? 0
      default: return 0
    }
  }

  #write(offset: number, value: number): void {
    if (offset === 0x08) this.#ring = new RingDevice(() => this.ram, legacyRingLayout(this.queueSize, value * 4096))
    if (offset === 0x12) {
      this.status = value
      if (value === 0) this.#held = []
    }
    if (offset !== 0x10) return
    const chains = this.#ring?.take() ?? []
    if (this.isHolding) this.#held.push(...chains)
    else {
      for (const chain of chains) this.#execute(chain)
      this.interrupt(1)
    }
  }

  #execute(chain: SeenChain): void {
    const gather = (writable: boolean): number[] => chain.segments.filter((each) => each.writable === writable).flatMap(
      ({ address, length }) => Array.from({ length }, (_, index) => address + index),
    )
    const readable = gather(false)
    const writable = gather(true)
    const header = new DataView(Uint8Array.from({ length: 16 }, (_, index) => this.ram[readable[index] ?? 0] ?? 0).buffer)
    const request = { type: header.getUint32(0, true), sector: header.getBigUint64(8, true), chain }
    this.seen.push(request)
    const at = Number(request.sector) * 512
    const isRead = request.type === 0
    if (isRead) writable.slice(0, -1).forEach((address, index) => (this.ram[address] = this.disk[at + index] ?? 0))
    if (request.type === 1) readable.slice(16).forEach((address, index) => (this.disk[at + index] = this.ram[address] ?? 0))
    const answer: Answer = { id: chain.head, usedLength: isRead ? writable.length : 1, status: 0 }
    this.answer(answer, request)
    const status = writable.at(-1)
    if (answer.status !== undefined && status !== undefined) this.ram[status] = answer.status
    this.#ring?.give(answer.id, answer.usedLength)
  }
}
