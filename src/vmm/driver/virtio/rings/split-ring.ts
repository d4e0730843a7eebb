/**
 * SplitRing: the driver's side of a split virtqueue: free descriptors, chains (direct, indirect, or both), publication, and the decision
 * to kick. It checks used entries before it returns them. [VIRTIO] 2.7.13 and 2.7.14.
 */
import { checkOptions } from "../../../../options.ts"
import { DriverError } from "../../errors.ts"
import type { GuestRam } from "../../guest-ram.ts"
import type { RingAddresses } from "./ring-layout.ts"
import { RingMemory, type UsedElement, writeTableEntry } from "./ring-memory.ts"
import { checkSegments, type IndirectTable, type Segment } from "./segments.ts"
import { AVAILABLE, DESCRIPTOR, DESCRIPTOR_FLAG, USED } from "../spec.ts"
import { UsedBatches } from "./used-batches.ts"

/** Options of `SplitRing`. */
export interface SplitRingOptions {
  readonly layout: RingAddresses
  /** VIRTIO_F_EVENT_IDX is negotiated. Default false. */
  readonly eventIdx?: boolean
  /** VIRTIO_F_IN_ORDER is negotiated: descriptors are used in ring order ([VIRTIO] 2.7.5). Default false. */
  readonly inOrder?: boolean
}

/** Marks the end of the free list. Never a descriptor: the largest index is 32767. */
const NONE = 0xffff

/**
 * Whether moving an index from `previous` to `next` passes `event`, in 16-bit arithmetic: the entry with index `event` is among
 * those with indices previous .. next-1. [VIRTIO] 2.7.7.2 and 2.7.10.2.
 */
export function indexPassed(event: number, next: number, previous: number): boolean {
  return ((next - event - 1) & 0xffff) < ((next - previous) & 0xffff)
}

/** The driver's side of one split virtqueue. */
export class SplitRing extends RingMemory {
  readonly eventIdx: boolean
  // Where the words are that both sides use. Each operation looks once whether RAM is another: that costs as much as ten accesses.
  readonly #availableIndexAt: number
  readonly #usedEventAt: number
  readonly #usedIndexAt: number
  readonly #availableEventAt: number
  /** Where IN_ORDER is negotiated. */
  readonly #batches: UsedBatches | undefined
  /**
   * For each descriptor: the next one in the free list, or in its chain. It is not in guest RAM, so that the device cannot break it.
   */
  readonly #next: Uint16Array
  /** For each head in flight: descriptors of its chain in the ring. 0: not in flight. */
  readonly #chainLength: Uint16Array
  /** For each head in flight: bytes that the device may write. */
  readonly #writable: Float64Array
  #freeHead = 0
  #freeCount = 0
  #inFlight = 0
  /** `#exposed` is avail.idx in memory; `#placed` is what it will be once everything placed has been exposed. */
  #placed = 0
  #exposed = 0
  #lastUsed = 0

  /**
   * Zeroes the ring's memory.
   * @throws RangeError for a layout that is misaligned or not in RAM
   */
  constructor(ram: GuestRam, options: SplitRingOptions) {
    checkOptions("SplitRing", options, { layout: "object", eventIdx: "boolean?", inOrder: "boolean?" })
    super(ram, options.layout)
    const { availableRing, usedRing } = this.layout
    this.#availableIndexAt = availableRing + AVAILABLE.INDEX
    this.#usedEventAt = availableRing + AVAILABLE.RING + AVAILABLE.ENTRY_SIZE * this.size
    this.#usedIndexAt = usedRing + USED.INDEX
    this.#availableEventAt = usedRing + USED.RING + USED.ENTRY_SIZE * this.size
    this.eventIdx = options.eventIdx ?? false
    this.#batches = options.inOrder === true ? new UsedBatches() : undefined
    this.#next = new Uint16Array(this.size)
    this.#chainLength = new Uint16Array(this.size)
    this.#writable = new Float64Array(this.size)
    this.clear()
  }

  /** Empties the ring: memory zeroed, all descriptors free, indices 0. The device must not be using it. */
  override clear(): void {
    super.clear()
    for (let index = 0; index < this.size; index++) this.#next[index] = index + 1 < this.size ? index + 1 : NONE
    // In order the free descriptors follow each other around the table: their links never change.
    if (this.#batches !== undefined) this.#next[this.size - 1] = 0
    this.#batches?.clear()
    this.#chainLength.fill(0)
    this.#freeHead = 0
    this.#freeCount = this.size
    this.#inFlight = this.#placed = this.#exposed = this.#lastUsed = 0
  }

  /** Descriptors that are free. */
  get freeDescriptors(): number {
    return this.#freeCount
  }

  /** Chains that were added and have not come back. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** avail.idx as the driver last exposed it. */
  get exposedIndex(): number {
    return this.#exposed
  }

  /** Index of the next used entry that the driver will look at. */
  get lastUsed(): number {
    return this.#lastUsed
  }

  /**
   * Puts a buffer into free descriptors and its head into the available ring; `expose` shows it to the device. Returns the head.
   * @throws RangeError for a buffer that a driver must not make (no segments or too many, readable after writable, more than 2^32 bytes),
   * and for one that needs more descriptors than are free: see `freeDescriptors`
   */
  add(segments: readonly Segment[], table?: IndirectTable): number {
    const direct = table === undefined ? segments.length : (table.direct ?? 0)
    const needed = table === undefined ? direct : direct + 1
    const writable = checkSegments(segments, this.size)
    if (table !== undefined && (direct < 0 || direct >= segments.length)) {
      throw new RangeError(`${direct} direct descriptors leave nothing of ${segments.length} segments for the indirect table`)
    }
    if (needed > this.#freeCount) throw new RangeError(`${needed} descriptors are needed, but ${this.#freeCount} are free`)
    this.ram.refresh()
    const head = this.#take(needed, writable)
    let index = head
    for (let at = 0; at < direct; at++) {
      const next = this.#next[index] ?? NONE
      this.#store(this.layout.descriptorTable, index, segments[at], at + 1 < needed ? next : NONE)
      index = next
    }
    if (table !== undefined) {
      const entries = segments.length - direct
      const descriptor = { address: table.address, length: entries * DESCRIPTOR.SIZE, flags: DESCRIPTOR_FLAG.INDIRECT }
      writeTableEntry(this.ram, this.layout.descriptorTable, index, descriptor)
      for (let entry = 0; entry < entries; entry++) {
        this.#store(table.address, entry, segments[direct + entry], entry + 1 < entries ? entry + 1 : NONE)
      }
    }
    this.#place(head)
    return head
  }

  /**
   * Takes `count` free descriptors for a chain that the caller writes by hand. The first is the head; all are in flight until the device
   * returns it. `writable` is the largest used length to accept. Default: any.
   */
  reserve(count: number, writable = Number.POSITIVE_INFINITY): number[] {
    if (!Number.isInteger(count) || count < 1 || count > this.#freeCount) {
      throw new RangeError(`cannot reserve ${count} descriptors: ${this.#freeCount} are free`)
    }
    const indices: number[] = []
    let index = this.#take(count, writable)
    for (let taken = 0; taken < count; taken++) {
      indices.push(index)
      index = this.#next[index] ?? NONE
    }
    return indices
  }

  /** Puts any 16-bit `head` into the available ring and exposes it. Returns whether the device asks for a kick. */
  publish(head: number): boolean {
    this.ram.refresh()
    this.#place(head)
    return this.expose()
  }

  /** Shows everything added so far to the device. Returns whether the device asks for a kick ([VIRTIO] 2.7.10.1). */
  expose(): boolean {
    const previous = this.#exposed
    if (this.#placed === previous) return false
    this.#exposed = this.#placed
    this.ram.refresh()
    // The store and the load are sequentially consistent: either the device sees the new index, or we see that it wants a kick.
    this.ram.storeWord(this.#availableIndexAt, this.#exposed)
    if (this.eventIdx) return indexPassed(this.ram.loadWord(this.#availableEventAt), this.#exposed, previous)
    return (this.ram.loadWord(this.layout.usedRing + USED.FLAGS) & USED.FLAG_NO_NOTIFY) === 0
  }

  /** Whether the device has returned chains that `takeUsed` has not seen yet. */
  get hasUsed(): boolean {
    return this.usedIndex !== this.#lastUsed
  }

  /**
   * The next chain that the device returned, or undefined; its descriptors are free afterwards.
   * @throws DriverError ("protocol") for an id that is not in flight, more written bytes than were writable, or more entries than chains
   * in flight; the ring cannot be used after that
   */
  takeUsed(): UsedElement | undefined {
    this.ram.refresh()
    const ahead = (this.ram.loadWord(this.#usedIndexAt) - this.#lastUsed) & 0xffff
    if (ahead === 0) return undefined
    if (ahead > this.#inFlight) throw new DriverError("protocol", `used.idx is ${ahead} ahead, but ${this.#inFlight} chains are in flight`)
    const element = this.#batches?.take(ahead, () => this.#nextUsed(), this.#writable) ?? this.#nextUsed()
    const length = element.id < this.size ? this.#chainLength[element.id] : 0
    if (length === undefined || length === 0) {
      throw new DriverError("protocol", `used id ${element.id} is not the head of a chain in flight`)
    }
    const writable = this.#writable[element.id] ?? 0
    if (element.length > writable) {
      throw new DriverError("protocol", `used length ${element.length} of head ${element.id} exceeds its ${writable} writable bytes`)
    }
    this.#release(element.id, length)
    this.#lastUsed = (this.#lastUsed + 1) & 0xffff
    return element
  }

  #nextUsed(): UsedElement {
    const at = this.layout.usedRing + USED.RING + (this.#lastUsed & (this.size - 1)) * USED.ENTRY_SIZE
    const { data } = this.ram
    return { id: data.getUint32(at + USED.ENTRY_ID, true), length: data.getUint32(at + USED.ENTRY_LENGTH, true) }
  }

  /** Tells the device that the driver wants no used buffer notifications. This is a hint: they may still come. */
  suppressNotifications(): void {
    this.ram.refresh()
    // With EVENT_IDX the flags stay 0; the event is as far ahead as 16 bits allow.
    if (this.eventIdx) this.ram.storeWord(this.#usedEventAt, this.#lastUsed - 1)
    else this.ram.storeWord(this.layout.availableRing + AVAILABLE.FLAGS, AVAILABLE.FLAG_NO_INTERRUPT)
  }

  /**
   * Asks for a notification with the next used buffer. Returns false when a buffer has come back meanwhile: then look again, since no
   * notification may follow ([VIRTIO] 2.7.14, note).
   */
  requestNotifications(): boolean {
    this.ram.refresh()
    if (this.eventIdx) this.ram.storeWord(this.#usedEventAt, this.#lastUsed)
    else this.ram.storeWord(this.layout.availableRing + AVAILABLE.FLAGS, 0)
    return this.ram.loadWord(this.#usedIndexAt) === this.#lastUsed
  }

  #place(head: number): void {
    // Whoever sees the index that comes later sees this.
    this.ram.data.setUint16(
      this.layout.availableRing + AVAILABLE.RING + (this.#placed & (this.size - 1)) * AVAILABLE.ENTRY_SIZE,
      head,
      true,
    )
    this.#batches?.add(head)
    this.#placed = (this.#placed + 1) & 0xffff
  }

  /** Takes `count` descriptors off the free list; they stay linked in order. The caller has checked that there are so many. */
  #take(count: number, writable: number): number {
    const head = this.#freeHead
    let last = head
    for (let taken = 1; taken < count; taken++) last = this.#next[last] ?? NONE
    this.#freeHead = this.#next[last] ?? NONE
    this.#freeCount -= count
    this.#chainLength[head] = count
    this.#writable[head] = writable
    this.#inFlight++
    return head
  }

  #release(head: number, length: number): void {
    if (this.#batches === undefined) {
      let last = head
      for (let seen = 1; seen < length; seen++) last = this.#next[last] ?? NONE
      this.#next[last] = this.#freeHead
      this.#freeHead = head
    }
    this.#freeCount += length
    this.#chainLength[head] = 0
    this.#inFlight--
  }

  #store(table: number, index: number, segment: Segment | undefined, next: number): void {
    if (segment === undefined) return
    const at = table + index * DESCRIPTOR.SIZE
    const data = this.ram.data
    this.ram.setU64(at + DESCRIPTOR.ADDRESS, segment.address)
    data.setUint32(at + DESCRIPTOR.LENGTH, segment.length, true)
    data.setUint16(at + DESCRIPTOR.FLAGS, (segment.writable ? DESCRIPTOR_FLAG.WRITE : 0) | (next === NONE ? 0 : DESCRIPTOR_FLAG.NEXT), true)
    data.setUint16(at + DESCRIPTOR.NEXT, next === NONE ? 0 : next, true)
  }
}
