/**
 * PackedQueue: the device's side of a packed virtqueue ([VIRTIO] 2.8) that the driver has enabled. Driver and device write into one ring
 * of descriptors; a bit that flips with each lap, the wrap counter, tells a descriptor of this lap from one of the lap before.
 */
import type { GuestMemory } from "../guest-memory.ts"
import { PVIRTQ_DESC_F, PVIRTQ_EVENT, RING_EVENT_FLAGS } from "../spec.ts"
import type { SavedRing } from "../state.ts"
import { HEAD as HEAD_AT, SLOTS as SLOTS_AT, WRITTEN as WRITTEN_AT } from "./chain-rows.ts"
import type { DescriptorChain } from "./descriptor-chain.ts"
import { Displaced } from "./displaced.ts"
import { PackedDescriptors } from "./packed-descriptors.ts"
import { checkPackedAreas, ringFull } from "./packed-errors.ts"
import { eventAt, wantsEvent } from "./packed-events.ts"
import { pieceOfRam } from "./ram-pieces.ts"
import { NO_WORD, ringWordAt } from "./ring-word.ts"
import {
  type Changeable, INTERRUPT_WANTED, MORE_WAIT, type PackedRows, type QueueAreas, type Ring, type RingFeatures, type TakenChain,
} from "./ring.ts"
import { SavedChains } from "./saved-chains.ts"
import { announceUsedSlots } from "./used-ring.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { ENABLE, DESC } = RING_EVENT_FLAGS
const { MARKS } = PVIRTQ_DESC_F
const { desc: EVENT, flags: FLAGS, SIZE } = PVIRTQ_EVENT
const [HEAD, SLOTS, WRITTEN, WANTED, MORE] = [HEAD_AT, SLOTS_AT, WRITTEN_AT, INTERRUPT_WANTED, MORE_WAIT] as const
const NO_VIEW: DataView = new DataView(new ArrayBuffer(SIZE))

/** Rings begin at slot 0 in a lap with wrap counter 1. */
const BEGINNING = 0x8000

/** From here on, places restart once nothing is in flight: V8 compares numbers beyond its integers (below 2^31) more slowly. */
const PLACES = 2 ** 30

export class PackedQueue implements Ring, PackedRows {
  readonly size: number = 0
  #hasEventIdx = false
  readonly #areas: QueueAreas
  readonly #memory: GuestMemory
  /** Also holds the position of the next chain. */
  readonly descriptors: PackedDescriptors
  /** The generation of the memory that the views belong to. */
  generation = -1
  /** Another thread may be the driver. */
  #isShared = false
  /** `isAvailable` orders the reads that follow it: either RAM is not shared, or all of the ring is. */
  #isOrdered = true
  // Event suppression: the driver's for interrupts, the device's for kicks. In RAM that is not shared, each batch accesses it through
  // views: fewer objects (2 ns each, measured).
  #driver = NO_VIEW
  #driverAt = 0
  #device = NO_VIEW
  #deviceAt = 0
  #driverFlags = NO_WORD
  #deviceEvent = NO_WORD
  #deviceFlags = NO_WORD
  /** The device's event, if `addUsedRows` has stored it for the next call of `enableKicks`. */
  #storedEvent = -1
  #kicks = -1 // the device's flags
  /** Descriptors since the ring was opened: taken, given back, and given back before the last interrupt decision. */
  availPlace = 0
  #usedPlace = 0
  #publishedPlace = 0
  /** The slot of the next used descriptor, and its marks: both bits in laps with wrap counter 1, neither in the others. */
  #usedSlot = 0
  #usedMarks = 0
  readonly #displaced = new Displaced()
  /** Chains that were in flight when the state was saved; undefined once all have been taken again. */
  #saved: SavedChains | undefined

  /** `saved`: the state to go on from. @throws VirtqueueError when the ring is misaligned, or not in RAM */
  constructor(memory: GuestMemory, areas: QueueAreas, features: RingFeatures, saved?: SavedRing) {
    const { position, chains = [], unpublished = 0 } = saved?.chains === undefined ? { position: BEGINNING } : saved
    this.#memory = memory
    this.#areas = areas
    // `| 0` makes it an integer: V8 keeps a number from a typed array or a register as a double, and comparing doubles costs 3 ns each.
    this.size = areas.size | 0
    this.#hasEventIdx = features.eventIdx
    const [slot, wrap] = [position & 0x7fff, position >= 0x8000]
    this.descriptors = new PackedDescriptors(memory, { size: this.size, indirect: features.indirect, slot, wrap })
    this.#usedSlot = slot
    this.#usedMarks = wrap ? MARKS : 0
    const left = new SavedChains(chains)
    const inFlight = left.slots
    // As if chains before the saved ones had been given back: the ring may no longer hold the saved chains' descriptors.
    this.#usedPlace = slot
    this.#publishedPlace = slot - unpublished
    this.availPlace = slot + inFlight
    this.descriptors.skip(inFlight)
    this.#displaced.noneAt(slot, inFlight)
    this.#saved = left.isEmpty ? undefined : left
    checkPackedAreas([areas.descriptorTable, areas.availRing, areas.usedRing])
    this.refresh()
  }

  set features(features: RingFeatures) {
    this.#hasEventIdx = features.eventIdx
    this.descriptors.indirect = features.indirect
  }

  save(inFlight: readonly TakenChain[]): SavedRing {
    const at = (place: number): readonly number[] => this.#displaced.at(place) ?? this.descriptors.read(place % this.size)
    const chains = inFlight.map(({ head, place, slots }) => ({
      id: head, descriptors: Array.from({ length: slots }, (_, index) => at(place + index)).flat(),
    }))
    const unpublished = Math.min(this.#usedPlace - this.#publishedPlace, this.size)
    const all = [...chains, ...(this.#saved?.left ?? [])]
    return { position: eventAt(this.#usedSlot, this.#usedMarks !== 0), heads: [], chains: all, ...(unpublished > 0 && { unpublished }) }
  }

  /** Enables kicks. */
  initialiseFlags(): void {
    this.#kicks = this.#deviceFlags.load()
    if (this.#kicks === ENABLE) return
    this.#setKicks(ENABLE)
    this.#memory.written?.(this.#areas.usedRing, SIZE)
  }

  refresh(): void {
    const { generation } = this.#memory
    if (generation !== this.generation) this.#lookUp(generation)
  }

  /** The rare part of `refresh`: separate, so that V8 inlines the usual part. */
  #lookUp(generation: number): void {
    const { descriptorTable, availRing, usedRing } = this.#areas
    this.descriptors.place(descriptorTable)
    const driver = pieceOfRam(this.#memory, "driver event suppression", availRing, SIZE)
    const device = pieceOfRam(this.#memory, "device event suppression", usedRing, SIZE)
    this.#driver = driver.data
    this.#driverAt = driver.offset(availRing)
    this.#device = device.data
    this.#deviceAt = device.offset(usedRing)
    this.#driverFlags = ringWordAt(driver, availRing + FLAGS)
    this.#deviceEvent = ringWordAt(device, usedRing + EVENT)
    this.#deviceFlags = ringWordAt(device, usedRing + FLAGS)
    this.#isShared = driver.shared || device.shared
    this.#isOrdered = !this.#isShared || this.descriptors.words !== undefined
    this.#storedEvent = -1
    this.generation = generation
  }

  get packedRows(): PackedQueue | undefined {
    return this.availPlace === this.#usedPlace && this.#saved === undefined ? this : undefined
  }

  get hasSaved(): boolean {
    return this.#saved !== undefined
  }

  countWaiting(): number {
    return this.descriptors.isAvailable ? 1 : 0
  }

  /** A packed ring has no index: the flags of each descriptor say whether it is available. */
  look(): boolean {
    return this.#saved !== undefined || this.descriptors.isAvailable
  }

  /**
   * An Atomics load for each chain costs 10 ns (measured). Instead, plain loads read the flags of all chains, and a barrier follows: an
   * Atomics store comes after everything before it, an Atomics load comes before everything after it, and the two keep their order.
   * The stored value is the old one.
   */
  orderAhead(most: number): number {
    const count = this.descriptors.countAhead(most)
    // The barrier costs as much as two of those loads, and it orders nothing if the word is not shared.
    if (count < 3 || this.#deviceFlags.forAtomics === undefined) return 1
    this.#deviceFlags.store(this.#kicks)
    this.#deviceFlags.load()
    return count
  }

  pop(chain: DescriptorChain): boolean {
    if (this.#saved !== undefined) return this.#takeAgain(chain, this.#saved)
    const { descriptors } = this
    if (!descriptors.isAvailable) return false
    const room = this.size - (this.availPlace - this.#usedPlace)
    if (room === 0) throw ringFull(this.size)
    descriptors.room = room
    descriptors.walk(chain)
    chain.place = this.availPlace
    this.availPlace += chain.slots
    descriptors.skip(chain.slots)
    return true
  }

  /** Takes a chain that was in flight when the state was saved. It counts as in flight already. */
  #takeAgain(chain: DescriptorChain, saved: SavedChains): boolean {
    this.descriptors.walkSaved(chain, saved.next)
    this.#passSaved(chain, saved)
    return true
  }

  passSaved(chain: Changeable<TakenChain>): void {
    if (this.#saved === undefined) throw new Error("no chains are left to take again")
    chain.slots = this.#saved.next.length / 4
    this.#passSaved(chain, this.#saved)
  }

  #passSaved(chain: Changeable<TakenChain>, saved: SavedChains): void {
    saved.pass(chain, this.#usedPlace, this.#displaced)
    if (saved.isEmpty) this.#saved = undefined
  }

  addUsed(chain: TakenChain, length: number): void {
    if (chain.place !== this.#usedPlace) this.#displaced.pass(chain, this.#usedPlace, (place) => this.descriptors.read(place % this.size))
    this.descriptors.writeUsed(this.#usedSlot, chain.head, length, this.#usedMarks)
    this.#giveBack(chain.slots)
  }

  addUsedRows(rows: Uint32Array, count: number): void {
    // `enableKicks` would store this next: here it shares the barrier of the used descriptor (12 ns each, measured).
    if (this.#isShared && count > 0 && this.descriptors.words !== undefined && this.#storesEventOnly()) {
      this.#storedEvent = this.descriptors.event
      this.#device.setUint16(this.#deviceAt + EVENT, this.#storedEvent, true)
    }
    if (count !== 1) return this.#giveBack(this.descriptors.writeUsedRows(rows, count, this.#usedSlot, this.#usedMarks))
    this.descriptors.writeUsed(this.#usedSlot, rows[HEAD] ?? 0, rows[WRITTEN] ?? 0, this.#usedMarks)
    this.#giveBack(rows[SLOTS] ?? 0)
  }

  giveBackOnly(head: number, length: number): number {
    const { descriptors } = this
    // The store of the used flags makes it visible in shared RAM: see `addUsedRows`. For V8 `=== true` is one comparison, truthiness five.
    if (this.#hasEventIdx === true && this.#kicks === DESC && this.#isOrdered === true) {
      this.#device.setUint16(this.#deviceAt + EVENT, descriptors.event, true)
    } else this.#askForKicks()
    this.#storedEvent = -1
    descriptors.writeUsed(this.#usedSlot, head, length, this.#usedMarks)
    // This was the only chain, so all taken descriptors have been given back.
    const passed = this.availPlace - this.#publishedPlace
    if (this.availPlace >= PLACES) this.availPlace = descriptors.slot
    this.#usedPlace = this.#publishedPlace = this.availPlace
    this.#usedSlot = descriptors.slot
    this.#usedMarks = descriptors.usedMarks
    // After that, read the driver's event suppression, and whether another chain is available ([VIRTIO] 2.8.10). In shared RAM
    // `isAvailable` comes first, because it orders the reads that follow.
    const more = descriptors.isAvailable ? MORE : 0
    if (this.#isOrdered === false) this.#driverFlags.load()
    return (this.#wantsInterrupt(passed) ? WANTED : 0) | more
  }

  /** Gives `slots` descriptors back to the driver. */
  #giveBack(slots: number): void {
    this.#usedPlace += slots
    this.#usedSlot += slots
    if (this.#usedSlot < this.size) return
    this.#usedSlot -= this.size
    this.#usedMarks ^= MARKS
  }

  /** The driver sees used descriptors as they are written. This announces them to the memory, and decides whether to interrupt. */
  publish(): boolean {
    const passed = this.#usedPlace - this.#publishedPlace
    if (passed === 0) return false
    if (this.#memory.written !== undefined) announceUsedSlots(this.#memory, this.#areas, this.#usedSlot, passed)
    if (this.#usedPlace >= PLACES && this.#usedPlace === this.availPlace) this.#usedPlace = this.availPlace = this.#usedSlot
    this.#publishedPlace = this.#usedPlace
    // In shared RAM the flags are an acquire: later reads come after them.
    if (this.#isShared) this.#driverFlags.load()
    return this.#wantsInterrupt(passed)
  }

  #wantsInterrupt(passed: number): boolean {
    const suppression = this.#driver.getUint32(this.#driverAt, true)
    if (this.#hasEventIdx === false) return wantsEvent(suppression)
    return wantsEvent(suppression, { size: this.size, slot: this.#usedSlot, wrap: this.#usedMarks !== 0, passed })
  }

  enableKicks(): boolean {
    const { descriptors } = this
    if (this.#storesEventOnly()) {
      const { event } = descriptors
      if (!this.#isShared) this.#device.setUint16(this.#deviceAt + EVENT, event, true)
      else if (event !== this.#storedEvent) this.#deviceEvent.store(event)
      this.#storedEvent = -1
    } else this.#askForKicks()
    return this.#saved !== undefined || descriptors.isAvailable
  }

  /** The usual case: `enableKicks` only has to store the event, the descriptor for which it wants a kick. */
  #storesEventOnly(): boolean {
    return this.#hasEventIdx && this.#kicks === DESC && this.#memory.written === undefined
  }

  #askForKicks(): void {
    if (this.#hasEventIdx) {
      // The event comes before the flags that make it valid.
      this.#deviceEvent.store(this.descriptors.event)
      if (this.#kicks !== DESC) this.#setKicks(DESC)
      this.#memory.written?.(this.#areas.usedRing, SIZE)
    } else if (this.#kicks !== ENABLE) this.#setKicks(ENABLE)
  }

  #setKicks(flags: number): void {
    this.#deviceFlags.store(flags)
    this.#kicks = flags
  }
}
