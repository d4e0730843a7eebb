/**
 * The device's side of a split ring, as simple as can be: it reads bytes at offsets typed from [VIRTIO] 2.7, walks chains with a
 * loop, and finds out by stepping index by index what the driver's event arithmetic must find out at once.
 */
import type { RingAddresses } from "../../../../../src/vmm/driver/virtio/rings/ring-layout.ts"

export interface SeenSegment {
  address: number
  length: number
  writable: boolean
}

export interface SeenChain {
  head: number
  /** Descriptors of the ring itself. */
  descriptors: number[]
  segments: SeenSegment[]
}

export class RingDevice {
  readonly #ram: () => Uint8Array
  readonly #layout: RingAddresses
  /** Next avail.idx to take, and used.idx. */
  taken = 0
  used = 0

  constructor(ram: () => Uint8Array, layout: RingAddresses) {
    this.#ram = ram
    this.#layout = layout
  }

  #view: DataView | undefined

  get #data(): DataView {
    const ram = this.#ram()
    if (this.#view?.buffer !== ram.buffer) this.#view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength)
    return this.#view
  }

  /** avail.idx: at 2. */
  get availableIndex(): number {
    return this.#data.getUint16(this.#layout.availableRing + 2, true)
  }

  /** avail.flags: at 0. */
  get availableFlags(): number {
    return this.#data.getUint16(this.#layout.availableRing, true)
  }

  /** used_event: after the ring, at 4 + 2N. */
  get usedEvent(): number {
    return this.#data.getUint16(this.#layout.availableRing + 4 + 2 * this.#layout.queueSize, true)
  }

  /** used.flags: at 0. */
  set flags(value: number) {
    this.#data.setUint16(this.#layout.usedRing, value, true)
  }

  /** avail_event: after the ring, at 4 + 8N. */
  set availableEvent(value: number) {
    this.#data.setUint16(this.#layout.usedRing + 4 + 8 * this.#layout.queueSize, value, true)
  }

  /** Takes everything available. */
  take(): SeenChain[] {
    const chains: SeenChain[] = []
    for (; this.taken !== this.availableIndex; this.taken = (this.taken + 1) % 65536) {
      const slot = this.taken % this.#layout.queueSize
      chains.push(this.#walk(this.#data.getUint16(this.#layout.availableRing + 4 + 2 * slot, true)))
    }
    return chains
  }

  /** Returns a chain; `index` false leaves used.idx as it is. */
  give(id: number, length: number, options: { index?: boolean } = {}): void {
    const at = this.#layout.usedRing + 4 + 8 * (this.used % this.#layout.queueSize)
    this.#data.setUint32(at, id, true)
    this.#data.setUint32(at + 4, length, true)
    if (options.index !== false) this.setUsedIndex((this.used + 1) % 65536)
  }

  /** used.idx: at 2. */
  setUsedIndex(value: number): void {
    this.used = value
    this.#data.setUint16(this.#layout.usedRing + 2, value, true)
  }

  #walk(head: number): SeenChain {
    const seen: SeenChain = { head, descriptors: [], segments: [] }
    let table = this.#layout.descriptorTable
    let index = head
    for (let step = 0; step < 2 * this.#layout.queueSize; step++) {
      const at = table + 16 * index
      const data = this.#data
      const address = Number(data.getBigUint64(at, true))
      const length = data.getUint32(at + 8, true)
      const flags = data.getUint16(at + 12, true)
      const next = data.getUint16(at + 14, true)
      if (table === this.#layout.descriptorTable) seen.descriptors.push(index)
      if ((flags & 4) !== 0) {
        if (flags !== 4) throw new Error(`INDIRECT together with flags ${flags}`)
        table = address
        index = 0
        continue
      }
      seen.segments.push({ address, length, writable: (flags & 2) !== 0 })
      if ((flags & 1) === 0) return seen
      index = next
    }
    throw new Error(`chain ${head} does not end`)
  }
}

/** Whether an index that goes from `previous` to `next` one by one passes `event`: the entry `event` is written on the way. */
export function passesByStepping(event: number, next: number, previous: number): boolean {
  for (let index = previous; index !== next; index = (index + 1) % 65536) if (index === event) return true
  return false
}
