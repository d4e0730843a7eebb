/**
 * The device's side of a packed ring, as simple as can be: it reads bytes at offsets typed from [VIRTIO] 2.8, and keeps its place as a
 * count of descriptors since the beginning, from which slot and wrap counter follow.
 */
import type { RingAddresses } from "../../../../../src/vmm/driver/virtio/rings/ring-layout.ts"

export interface SeenBuffer {
  readonly id: number
  /** Slots that it takes up. */
  readonly slots: number[]
  readonly segments: { readonly address: number; readonly length: number; readonly writable: boolean }[]
}

/** Slot and wrap counter of place `count`: laps with an even number have wrap counter 1. */
export function placeAt(count: number, size: number): { readonly slot: number; readonly wrap: boolean } {
  return { slot: count % size, wrap: Math.floor(count / size) % 2 === 0 }
}

/** Bits 0 to 14: the slot, bit 15: the wrap counter. */
export function wordAt(count: number, size: number): number {
  const { slot, wrap } = placeAt(count, size)
  return slot + (wrap ? 0x8000 : 0)
}

export class PackedRingDevice {
  readonly #ram: () => Uint8Array
  readonly #layout: RingAddresses
  /** Descriptors taken, and given back. */
  taken = 0
  used = 0

  constructor(ram: () => Uint8Array, layout: RingAddresses) {
    this.#ram = ram
    this.#layout = layout
  }

  get #data(): DataView {
    const ram = this.#ram()
    return new DataView(ram.buffer, ram.byteOffset, ram.byteLength)
  }

  /** What the driver wants to hear: offset and wrap counter at 0, flags at 2. */
  get driverEvents(): readonly [number, number] {
    return [this.#data.getUint16(this.#layout.availableRing, true), this.#data.getUint16(this.#layout.availableRing + 2, true)]
  }

  setDeviceEvents(flags: number, word = 0): void {
    this.#data.setUint16(this.#layout.usedRing, word, true)
    this.#data.setUint16(this.#layout.usedRing + 2, flags, true)
  }

  /** The flags of a slot: at 14. */
  flags(slot: number): number {
    return this.#data.getUint16(this.#layout.descriptorTable + 16 * slot + 14, true)
  }

  /** Takes all buffers that are available. @throws Error for what a driver must not write */
  take(): SeenBuffer[] {
    const buffers: SeenBuffer[] = []
    while (this.#isAvailable(this.taken)) buffers.push(this.#takeOne())
    return buffers
  }

  /** Gives a buffer back. */
  give(buffer: { readonly id: number; readonly slots: readonly number[] }, length: number, flags = 2): void {
    const { slot, wrap } = placeAt(this.used, this.#layout.queueSize)
    const at = this.#layout.descriptorTable + 16 * slot
    this.#data.setUint32(at + 8, length, true)
    this.#data.setUint16(at + 12, buffer.id, true)
    this.#data.setUint16(at + 14, flags | (wrap ? 0x8080 : 0), true)
    this.used += buffer.slots.length
  }

  /** AVAIL (bit 7) is the wrap counter, USED (bit 15) is not. */
  #isAvailable(count: number): boolean {
    const { slot, wrap } = placeAt(count, this.#layout.queueSize)
    const flags = this.flags(slot)
    return ((flags & 0x80) !== 0) === wrap && ((flags & 0x8000) !== 0) !== wrap
  }

  #takeOne(): SeenBuffer {
    const { descriptorTable, queueSize } = this.#layout
    const slots: number[] = []
    const segments: SeenBuffer["segments"] = []
    for (;;) {
      if (!this.#isAvailable(this.taken)) throw new Error(`slot ${this.taken % queueSize} of a list is not available`)
      const { slot } = placeAt(this.taken++, queueSize)
      slots.push(slot)
      if (slots.length > queueSize) throw new Error("a list without end")
      const at = descriptorTable + 16 * slot
      const flags = this.flags(slot)
      const id = this.#data.getUint16(at + 12, true)
      const part = this.#part(at)
      if ((flags & 4) !== 0) {
        if (slots.length > 1 || (flags & 1) !== 0) throw new Error("an indirect descriptor in a list")
        return { id, slots, segments: Array.from({ length: part.length / 16 }, (_, entry) => this.#part(part.address + 16 * entry)) }
      }
      segments.push(part)
      if ((flags & 1) === 0) return { id, slots, segments }
    }
  }

  #part(at: number): { address: number; length: number; writable: boolean } {
    const data = this.#data
    return {
      address: Number(data.getBigUint64(at, true)),
      length: data.getUint32(at + 8, true),
      writable: (data.getUint16(at + 14, true) & 2) !== 0,
    }
  }
}
