/**
 * PackedRing: the driver's side of a packed virtqueue: free descriptors and buffer ids, chains (direct or indirect), publication, and the
 * decision to kick. It checks used descriptors before it returns them. [VIRTIO] 2.8.
 */
import { checkOptions } from "../../../../options.ts"
import { DriverError } from "../../errors.ts"
import type { GuestRam } from "../../guest-ram.ts"
import { HiddenChains } from "./hidden-chains.ts"
import type { RingAddresses } from "./ring-layout.ts"
import type { Descriptor, UsedElement } from "./ring-memory.ts"
import { checkParts } from "./ring-parts.ts"
import { RingCursor, slotPassed } from "./ring-cursor.ts"
import { checkSegments, flagsOf, type IndirectTable, type Segment } from "./segments.ts"
import { DESCRIPTOR_FLAG, PACKED_DESCRIPTOR, PACKED_FLAG, QUEUE_SIZE_MAX, RING_EVENT, RING_EVENT_FLAGS } from "../spec.ts"
import { UsedBatches } from "./used-batches.ts"

/** Options of `PackedRing`. */
export interface PackedRingOptions {
  /** The descriptor ring, and where the other two rings of a split queue would be, the driver's and the device's event suppression. */
  readonly layout: RingAddresses
  /** VIRTIO_F_EVENT_IDX is negotiated. Default false. */
  readonly eventIdx?: boolean
  /** VIRTIO_F_IN_ORDER is negotiated. Default false. */
  readonly inOrder?: boolean
}

const { AVAIL, USED } = PACKED_FLAG
const MARKS = AVAIL | USED

/**
 * The driver's side of one packed virtqueue. Buffer ids are below the size of the ring: the slot of the first descriptor, where it is free.
 */
export class PackedRing {
  readonly layout: RingAddresses
  readonly size: number
  readonly eventIdx: boolean
  readonly #ram: GuestRam
  /** Where IN_ORDER is negotiated. */
  readonly #batches: UsedBatches | undefined
  /** For each buffer id in flight: descriptors of its chain. 0: not in flight. */
  readonly #slots: Uint16Array
  /** For each buffer id in flight: bytes that the device may write. */
  readonly #writable: Float64Array
  #freeCount = 0
  #inFlight = 0
  /** Where the next chain goes. */
  #next: RingCursor
  /** Where the next used descriptor comes. */
  #used: RingCursor
  /** What `expose` is to show. */
  readonly #hidden: HiddenChains
  /** Descriptors put into the ring since the last `expose`. */
  #added = 0
  #exposed = 0
  /** Descriptors that a caller writes by hand, by slot. */
  readonly #reserved = new Map<number, { readonly id: number; readonly marks: number; readonly isFirst: boolean }>()

  /**
   * Zeroes the ring's memory.
   * @throws RangeError for a layout that is misaligned or not in RAM, or a size that is not from 1 to 32768
   */
  constructor(ram: GuestRam, options: PackedRingOptions) {
    checkOptions("PackedRing", options, { layout: "object", eventIdx: "boolean?", inOrder: "boolean?" })
    const { layout, eventIdx = false, inOrder = false } = options
    const { queueSize, descriptorTable, availableRing, usedRing } = layout
    if (!Number.isInteger(queueSize) || queueSize < 1 || queueSize > QUEUE_SIZE_MAX) {
      throw new RangeError(`queue size ${queueSize} is not a number from 1 to ${QUEUE_SIZE_MAX}`)
    }
    ram.refresh()
    checkParts(ram, [
      { name: "descriptor ring", start: descriptorTable, length: PACKED_DESCRIPTOR.SIZE * queueSize, alignment: PACKED_DESCRIPTOR.SIZE },
      { name: "driver event suppression", start: availableRing, length: RING_EVENT.SIZE, alignment: RING_EVENT.SIZE },
      { name: "device event suppression", start: usedRing, length: RING_EVENT.SIZE, alignment: RING_EVENT.SIZE },
    ])
    this.#ram = ram
    this.layout = layout
    this.size = queueSize
    this.eventIdx = eventIdx
    this.#batches = inOrder ? new UsedBatches() : undefined
    this.#slots = new Uint16Array(queueSize)
    this.#writable = new Float64Array(queueSize)
    this.#hidden = new HiddenChains(queueSize)
    this.#next = new RingCursor(queueSize)
    this.#used = new RingCursor(queueSize)
    this.clear()
  }

  /** Empties the ring: memory zeroed, all descriptors free, both wrap counters 1. The device must not be using it. */
  clear(): void {
    const { layout, size } = this
    this.#ram.refresh()
    this.#ram.view(layout.descriptorTable, PACKED_DESCRIPTOR.SIZE * size).fill(0)
    this.#ram.view(layout.availableRing, RING_EVENT.SIZE).fill(0)
    this.#ram.view(layout.usedRing, RING_EVENT.SIZE).fill(0)
    this.#slots.fill(0)
    this.#next = new RingCursor(size)
    this.#used = new RingCursor(size)
    this.#reserved.clear()
    this.#batches?.clear()
    this.#hidden.clear()
    this.#freeCount = size
    this.#inFlight = this.#added = this.#exposed = 0
  }

  /** Descriptors that are free. */
  get freeDescriptors(): number {
    return this.#freeCount
  }

  /** Chains that were added and have not come back. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** Counts what was exposed, modulo 2^16. */
  get exposedIndex(): number {
    return this.#exposed
  }

  /** What NOTIFICATION_DATA tells the device: the next slot in bits 0 to 14, and its wrap counter in bit 15 ([VIRTIO] 2.9). */
  get availableIndex(): number {
    return this.#next.word
  }

  /** Slot and wrap counter of the next used descriptor that the driver will look at, as in `availableIndex`. */
  get lastUsed(): number {
    return this.#used.word
  }

  /**
   * Puts a buffer into the next descriptors; `expose` shows it to the device. Returns its buffer id.
   * @throws RangeError for a buffer that a driver must not make (no segments or too many, readable after writable, more than 2^32 bytes,
   * direct descriptors in front of an indirect one), and for one that needs more descriptors than are free: see `freeDescriptors`
   */
  add(segments: readonly Segment[], table?: IndirectTable): number {
    const writable = checkSegments(segments, this.size)
    if ((table?.direct ?? 0) !== 0) throw new RangeError("in a packed ring a list is direct or indirect, not both ([VIRTIO] 2.8.5)")
    const needed = table === undefined ? segments.length : 1
    if (needed > this.#freeCount) throw new RangeError(`${needed} descriptors are needed, but ${this.#freeCount} are free`)
    this.#ram.refresh()
    const id = this.#freeId(this.#next.slot)
    this.#take(id, needed, writable)
    let at = 0
    for (const segment of segments) {
      if (table === undefined) this.#put(segment, flagsOf(segment) | (at + 1 < needed ? DESCRIPTOR_FLAG.NEXT : 0), id, at === 0)
      else this.#store(table.address + at * PACKED_DESCRIPTOR.SIZE, segment, flagsOf(segment), 0)
      at++
    }
    if (table !== undefined) {
      this.#put({ address: table.address, length: segments.length * PACKED_DESCRIPTOR.SIZE }, DESCRIPTOR_FLAG.INDIRECT, id, true)
    }
    return id
  }

  /**
   * Takes the next `count` descriptors for a chain that the caller writes by hand, with `writeDescriptor`, and shows with `publish`.
   * Returns their slots; the first is the buffer id. `writable` is the largest used length to accept. Default: any.
   */
  reserve(count: number, writable = Number.POSITIVE_INFINITY): number[] {
    if (!Number.isInteger(count) || count < 1 || count > this.#freeCount) {
      throw new RangeError(`cannot reserve ${count} descriptors: ${this.#freeCount} are free`)
    }
    const id = this.#next.slot
    if (this.#slots[id] !== 0) throw new RangeError(`cannot reserve slot ${id}: its number is the buffer id of a chain in flight`)
    this.#take(id, count, writable)
    return Array.from({ length: count }, (_, at) => {
      const { slot, available: marks } = this.#next
      this.#reserved.set(slot, { id, marks, isFirst: at === 0 })
      this.#next.advance(1)
      return slot
    })
  }

  /** Stores a descriptor into a slot that `reserve` has returned, with its marks and its buffer id; `next` means nothing. */
  writeDescriptor(slot: number, descriptor: Descriptor): void {
    const reserved = this.#reserved.get(slot)
    if (reserved === undefined) throw new RangeError(`slot ${slot} is not reserved`)
    const { id, marks, isFirst } = reserved
    this.#ram.refresh()
    const flags = (descriptor.flags ?? 0) | marks
    if (isFirst) this.#hidden.set(slot, flags)
    this.#store(this.#at(slot), descriptor, isFirst ? flags ^ AVAIL : flags, id)
  }

  /** Shows the chain that begins in slot `head` to the device, which was written by hand. Returns whether the device asks for a kick. */
  publish(head: number): boolean {
    if (!this.#hidden.has(head)) throw new RangeError(`there is no chain in slot ${head} to be published`)
    return this.expose()
  }

  /** Shows everything added so far to the device. Returns whether the device asks for a kick ([VIRTIO] 2.8.21.2). */
  expose(): boolean {
    const { count } = this.#hidden
    if (count === 0) return false
    this.#ram.refresh()
    this.#hidden.show(this.#ram, this.layout.descriptorTable)
    const passed = this.#added
    this.#exposed = (this.#exposed + count) & 0xffff
    if (this.#reserved.size > 0) this.#reserved.clear()
    this.#added = 0
    // The stores and this load are sequentially consistent: either the device sees the marks, or we see that it wants a kick.
    const flags = this.#ram.loadWord(this.layout.usedRing + RING_EVENT.FLAGS) & RING_EVENT_FLAGS.MASK
    if (flags === RING_EVENT_FLAGS.DISABLE) return false
    if (flags !== RING_EVENT_FLAGS.DESC || !this.eventIdx) return true
    return slotPassed(this.#ram.loadWord(this.layout.usedRing + RING_EVENT.DESCRIPTOR), this.#next, passed)
  }

  /** Whether the device has returned chains that `takeUsed` has not seen yet. */
  get hasUsed(): boolean {
    this.#ram.refresh()
    if (this.#batches?.isPending === true) return true
    return (this.#ram.loadWord(this.#at(this.#used.slot) + PACKED_DESCRIPTOR.FLAGS) & MARKS) === (this.#used.wrap ? MARKS : 0) &&
      this.#inFlight > 0
  }

  /**
   * The next chain that the device returned, or undefined; its descriptors are free afterwards.
   * @throws DriverError ("protocol") for an id that is not in flight, or more written bytes than were writable; the ring cannot be used
   * after that
   */
  takeUsed(): UsedElement | undefined {
    if (!this.hasUsed) return undefined
    const { id, length } = this.#batches?.take(this.#inFlight, () => this.#usedDescriptor(), this.#writable) ?? this.#usedDescriptor()
    const slots = id < this.size ? this.#slots[id] : 0
    if (slots === undefined || slots === 0) throw new DriverError("protocol", `used id ${id} is not the id of a chain in flight`)
    const writable = this.#writable[id] ?? 0
    if (length > writable) {
      throw new DriverError("protocol", `used length ${length} of buffer ${id} exceeds its ${writable} writable bytes`)
    }
    this.#slots[id] = 0
    this.#freeCount += slots
    this.#inFlight--
    this.#used.advance(slots)
    return { id, length }
  }

  #usedDescriptor(): UsedElement {
    const { data } = this.#ram
    const at = this.#at(this.#used.slot)
    const id = data.getUint16(at + PACKED_DESCRIPTOR.ID, true)
    const isWritten = (data.getUint16(at + PACKED_DESCRIPTOR.FLAGS, true) & DESCRIPTOR_FLAG.WRITE) !== 0
    // Without WRITE nothing was written, and the length means nothing ([VIRTIO] 2.8.4).
    return { id, length: isWritten ? data.getUint32(at + PACKED_DESCRIPTOR.LENGTH, true) : 0 }
  }

  /** Tells the device that the driver wants no used buffer notifications. This is a hint: they may still come. */
  suppressNotifications(): void {
    this.#ram.refresh()
    this.#ram.storeWord(this.layout.availableRing + RING_EVENT.FLAGS, RING_EVENT_FLAGS.DISABLE)
  }

  /**
   * Asks for a notification with the next used buffer. Returns false when a buffer has come back meanwhile: then look again, since no
   * notification may follow.
   */
  requestNotifications(): boolean {
    const { availableRing } = this.layout
    this.#ram.refresh()
    if (this.eventIdx) this.#ram.storeWord(availableRing + RING_EVENT.DESCRIPTOR, this.#used.word)
    this.#ram.storeWord(availableRing + RING_EVENT.FLAGS, this.eventIdx ? RING_EVENT_FLAGS.DESC : RING_EVENT_FLAGS.ENABLE)
    return !this.hasUsed
  }

  /** Takes descriptors and the buffer id `id` for a chain. */
  #take(id: number, count: number, writable: number): void {
    this.#slots[id] = count
    this.#writable[id] = writable
    this.#freeCount -= count
    this.#added += count
    this.#inFlight++
    this.#batches?.add(id)
  }

  /** A buffer id that is not in flight: `wanted` if it can be. There are as many as descriptors, so one is free. */
  #freeId(wanted: number): number {
    return this.#slots[wanted] === 0 ? wanted : this.#slots.indexOf(0)
  }

  /** Puts a descriptor into the next slot. The first one of a chain is not marked available before `expose`. */
  #put(part: { readonly address: number; readonly length: number }, flags: number, id: number, isFirst: boolean): void {
    const { slot, available } = this.#next
    const marked = flags | available
    if (isFirst) this.#hidden.push(slot, marked)
    // With one mark the other way round it looks as in the lap before: used, or never available.
    this.#store(this.#at(slot), part, isFirst ? marked ^ AVAIL : marked, id)
    this.#next.advance(1)
  }

  #store(at: number, { address, length }: { readonly address: number | bigint; readonly length: number }, flags: number, id: number): void {
    const { data } = this.#ram
    this.#ram.setU64(at + PACKED_DESCRIPTOR.ADDRESS, address)
    data.setUint32(at + PACKED_DESCRIPTOR.LENGTH, length, true)
    data.setUint16(at + PACKED_DESCRIPTOR.ID, id, true)
    data.setUint16(at + PACKED_DESCRIPTOR.FLAGS, flags, true)
  }

  #at(slot: number): number {
    return this.layout.descriptorTable + PACKED_DESCRIPTOR.SIZE * slot
  }
}
