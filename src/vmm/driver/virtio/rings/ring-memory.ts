/**
 * RingMemory: the words of a split virtqueue in guest RAM, read and written one by one without any check. Tests use it to break a ring;
 * SplitRing adds the driver's bookkeeping.
 */
import type { GuestRam } from "../../guest-ram.ts"
import { availableRingSize, checkQueueSize, descriptorTableSize, RING_ALIGNMENT, type RingAddresses, usedRingSize } from "./ring-layout.ts"
import { checkParts } from "./ring-parts.ts"
import { AVAILABLE, DESCRIPTOR, USED } from "../spec.ts"

/** One entry of a descriptor table. */
export interface Descriptor {
  /** Guest-physical address. A bigint where it is beyond 2^53. */
  readonly address: number | bigint
  /** Bytes, 32 bits. */
  readonly length: number
  /** `DESCRIPTOR_FLAG` bits. Default 0: the last of its chain, device-readable. */
  readonly flags?: number
  /** Index of the next descriptor where the NEXT flag is set. Default 0. */
  readonly next?: number
}

/** An entry of the used ring. */
export interface UsedElement {
  /** Head of the chain that was used. */
  readonly id: number
  /** Bytes that the device says it has written. */
  readonly length: number
}

/** Raw access to one ring. Indices that address a slot are taken modulo the queue size. */
export class RingMemory {
  readonly layout: RingAddresses
  readonly size: number
  protected readonly ram: GuestRam

  /**
   * Does not touch memory.
   * @throws RangeError when a part is misaligned or not in RAM, or parts overlap ([VIRTIO] 2.7, 2.7.1)
   */
  constructor(ram: GuestRam, layout: RingAddresses) {
    checkQueueSize(layout.queueSize)
    ram.refresh()
    const { queueSize, descriptorTable, availableRing, usedRing } = layout
    const { DESCRIPTOR_TABLE, AVAILABLE_RING, USED_RING } = RING_ALIGNMENT
    checkParts(ram, [
      { name: "descriptor table", start: descriptorTable, length: descriptorTableSize(queueSize), alignment: DESCRIPTOR_TABLE },
      { name: "available ring", start: availableRing, length: availableRingSize(queueSize), alignment: AVAILABLE_RING },
      { name: "used ring", start: usedRing, length: usedRingSize(queueSize), alignment: USED_RING },
    ])
    this.ram = ram
    this.layout = layout
    this.size = layout.queueSize
  }

  /** Zeroes the three parts, as a driver must before it hands them to the device. */
  clear(): void {
    this.ram.refresh()
    this.ram.view(this.layout.descriptorTable, descriptorTableSize(this.size)).fill(0)
    this.ram.view(this.layout.availableRing, availableRingSize(this.size)).fill(0)
    this.ram.view(this.layout.usedRing, usedRingSize(this.size)).fill(0)
  }

  /** Stores descriptor `index` of the table. */
  writeDescriptor(index: number, descriptor: Descriptor): void {
    this.ram.refresh()
    writeTableEntry(this.ram, this.layout.descriptorTable, index, descriptor)
  }

  /** Loads descriptor `index` of the table. */
  readDescriptor(index: number): Required<Descriptor> {
    this.ram.refresh()
    const at = this.layout.descriptorTable + index * DESCRIPTOR.SIZE
    const data = this.ram.data
    return {
      address: this.ram.u64(at + DESCRIPTOR.ADDRESS),
      length: data.getUint32(at + DESCRIPTOR.LENGTH, true),
      flags: data.getUint16(at + DESCRIPTOR.FLAGS, true),
      next: data.getUint16(at + DESCRIPTOR.NEXT, true),
    }
  }

  /** Stores into the slot of the available ring that `index` selects. */
  setAvailableEntry(index: number, head: number): void {
    this.ram.refresh()
    this.ram.storeWord(this.layout.availableRing + AVAILABLE.RING + (index % this.size) * AVAILABLE.ENTRY_SIZE, head)
  }

  /** avail.idx */
  get availableIndex(): number {
    this.ram.refresh()
    return this.ram.loadWord(this.layout.availableRing + AVAILABLE.INDEX)
  }

  set availableIndex(value: number) {
    this.ram.refresh()
    this.ram.storeWord(this.layout.availableRing + AVAILABLE.INDEX, value)
  }

  /** avail.flags */
  get availableFlags(): number {
    this.ram.refresh()
    return this.ram.loadWord(this.layout.availableRing + AVAILABLE.FLAGS)
  }

  set availableFlags(value: number) {
    this.ram.refresh()
    this.ram.storeWord(this.layout.availableRing + AVAILABLE.FLAGS, value)
  }

  /** used_event: the driver wants a notification when the entry with this index has been written. */
  get usedEvent(): number {
    this.ram.refresh()
    return this.ram.loadWord(this.layout.availableRing + AVAILABLE.RING + this.size * AVAILABLE.ENTRY_SIZE)
  }

  set usedEvent(value: number) {
    this.ram.refresh()
    this.ram.storeWord(this.layout.availableRing + AVAILABLE.RING + this.size * AVAILABLE.ENTRY_SIZE, value)
  }

  /** used.idx */
  get usedIndex(): number {
    this.ram.refresh()
    return this.ram.loadWord(this.layout.usedRing + USED.INDEX)
  }

  /** used.flags */
  get usedFlags(): number {
    this.ram.refresh()
    return this.ram.loadWord(this.layout.usedRing + USED.FLAGS)
  }

  /** avail_event: the device wants a kick when the entry with this index has been published. */
  get availableEvent(): number {
    this.ram.refresh()
    return this.ram.loadWord(this.layout.usedRing + USED.RING + this.size * USED.ENTRY_SIZE)
  }

  /** The slot of the used ring that `index` selects. */
  usedElement(index: number): UsedElement {
    this.ram.refresh()
    const at = this.layout.usedRing + USED.RING + (index % this.size) * USED.ENTRY_SIZE
    return { id: this.ram.data.getUint32(at + USED.ENTRY_ID, true), length: this.ram.data.getUint32(at + USED.ENTRY_LENGTH, true) }
  }
}

/** Stores entry `index` of a descriptor table anywhere in RAM: the ring's own, or an indirect one. */
export function writeTableEntry(ram: GuestRam, table: number, index: number, descriptor: Descriptor): void {
  const at = table + index * DESCRIPTOR.SIZE
  ram.setU64(at + DESCRIPTOR.ADDRESS, descriptor.address)
  ram.data.setUint32(at + DESCRIPTOR.LENGTH, descriptor.length, true)
  ram.data.setUint16(at + DESCRIPTOR.FLAGS, descriptor.flags ?? 0, true)
  ram.data.setUint16(at + DESCRIPTOR.NEXT, descriptor.next ?? 0, true)
}
