/**
 * SplitQueue: the device's side of a split virtqueue ([VIRTIO] 2.7) that the driver has enabled.
 * `pop` takes chains in, validated; `addUsed` gives them back; `publish` shows them to the driver and says whether to interrupt.
 */
import type { GuestMemory } from "../guest-memory.ts"
import {
  availRingSize, usedRingSize, VIRTQ_AVAIL_ELEM_SIZE, VIRTQ_AVAIL_F, VIRTQ_EVENT_SIZE, VIRTQ_RING_OFFSET, VIRTQ_USED_ELEM_SIZE,
} from "../spec.ts"
import type { SavedRing } from "../state.ts"
import { HEAD as HEAD_AT, ROW as ROW_SIZE, WRITTEN as WRITTEN_AT } from "./chain-rows.ts"
import type { DescriptorChain } from "./descriptor-chain.ts"
import { DescriptorTable } from "./descriptor-table.ts"
import { pieceOfRam } from "./ram-pieces.ts"
import {
  type Changeable, INTERRUPT_WANTED, MORE_WAIT, type QueueAreas, type Ring, type RingFeatures, type SplitRows, type TakenChain,
} from "./ring.ts"
import { needsEvent, NO_WORD, ringWordAt } from "./ring-word.ts"
import { SavedHeads } from "./saved-heads.ts"
import { checkSplitAreas, tooFarAhead, tooManyInFlight } from "./split-errors.ts"
import { announceUsed } from "./used-ring.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const [RING_OFFSET, AVAIL_ELEM_SIZE, USED_ELEM_SIZE] = [VIRTQ_RING_OFFSET, VIRTQ_AVAIL_ELEM_SIZE, VIRTQ_USED_ELEM_SIZE] as const
const { NO_INTERRUPT } = VIRTQ_AVAIL_F
/** Byte offset of the index in both rings, after the flags. */
const IDX = 2
const [ROW, HEAD, WRITTEN, WANTED, MORE] = [ROW_SIZE, HEAD_AT, WRITTEN_AT, INTERRUPT_WANTED, MORE_WAIT] as const

const EMPTY = new DataView(new ArrayBuffer(0))

export class SplitQueue implements Ring, SplitRows {
  readonly size: number = 0
  #features: RingFeatures
  #hasEventIdx = false
  #hasEventIdxOnly = false
  /** Chains popped and not yet given back. */
  inFlight = 0
  readonly #areas: QueueAreas
  readonly #memory: GuestMemory
  readonly table: DescriptorTable
  /** Undefined for a big-endian guest, because code that takes rows reads little-endian numbers, and while saved chains wait. */
  splitRows: SplitQueue | undefined
  /** The generation of the memory that the views below belong to. */
  generation = -1
  avail: DataView = EMPTY
  #used: DataView = EMPTY
  /** Another thread may be the driver. */
  #isShared = false
  // The flags and indices of both sides. In RAM that is not shared, each batch accesses them through the views above: fewer objects (2 ns
  // each, measured).
  #availFlags = NO_WORD
  #availIdxWord = NO_WORD
  #usedEvent = NO_WORD
  #usedFlags = NO_WORD
  #usedIdxWord = NO_WORD
  #availEvent = NO_WORD
  // The indices in shared RAM, without a detour by RingWord (8 ns each, measured); undefined if Atomics do not know the guest's byte order.
  #sharedAvailIdx: Uint16Array | undefined
  #sharedUsedIdx: Uint16Array | undefined
  #usedEventAt = 0
  #availEventAt = 0
  /** avail_event, if `publish` has stored it for the next call of `enableKicks`. */
  #storedEvent = -1
  // Free-running 16-bit indices ([VIRTIO] 2.7.6), taken modulo the queue size only to find a slot.
  availIdx = 0
  lastAvail = 0
  #usedIdx = 0
  /** #usedIdx as the driver sees it, and as of the last interrupt decision. */
  #publishedIdx = 0

  readonly #savedHeads: SavedHeads

  /** `saved`: the state to go on from. @throws VirtqueueError when the size is not a power of two, or an area is odd or not in RAM */
  constructor(memory: GuestMemory, areas: QueueAreas, features: RingFeatures, saved: SavedRing = { position: 0, heads: [] }) {
    const { position, heads, unpublished = 0 } = saved
    this.lastAvail = (position + heads.length) & 0xffff
    this.availIdx = this.lastAvail
    this.#usedIdx = position
    this.#publishedIdx = (position - unpublished) & 0xffff
    this.#savedHeads = new SavedHeads(heads)
    this.inFlight = heads.length
    this.#memory = memory
    this.#areas = areas
    // `| 0` makes it an integer: V8 keeps numbers from typed arrays and registers as doubles, and comparing those costs 3 ns (measured).
    this.size = areas.size | 0
    this.#features = features
    this.table = new DescriptorTable(memory, this.size, features.indirect)
    this.features = features
    checkSplitAreas(areas)
    this.refresh()
  }

  /** A legacy driver may negotiate while the ring is in use. */
  set features(features: RingFeatures) {
    this.#features = features
    this.#hasEventIdx = features.eventIdx
    this.#hasEventIdxOnly = features.eventIdx && !features.notifyOnEmpty
    this.table.indirect = features.indirect
  }

  save(inFlight: readonly TakenChain[]): SavedRing {
    const heads = [...inFlight.map(({ head }) => head), ...this.#savedHeads.left]
    const unpublished = (this.#usedIdx - this.#publishedIdx) & 0xffff
    return { position: this.#usedIdx, heads, ...(unpublished > 0 && { unpublished }) }
  }

  /** Sets used.flags to 0: the device wants kicks, and EVENT_IDX requires 0 ([VIRTIO] 2.7.10.1). Drivers may have left anything there. */
  initialiseFlags(): void {
    if (this.#usedFlags.load() === 0) return
    this.#usedFlags.store(0)
    this.#memory.written?.(this.#areas.usedRing, 2)
  }

  /** Finds the rings again if the guest's memory has been replaced. Call it before each run of pops, and before completions. */
  refresh(): void {
    const { generation } = this.#memory
    if (generation !== this.generation) this.#lookUp(generation)
  }

  /** The rare part of `refresh`: separate, so that V8 inlines the usual part. */
  #lookUp(generation: number): void {
    const { size } = this
    const { descriptorTable, availRing, usedRing } = this.#areas
    this.table.place(descriptorTable)
    const avail = pieceOfRam(this.#memory, "available ring", availRing, availRingSize(size))
    const used = pieceOfRam(this.#memory, "used ring", usedRing, usedRingSize(size))
    this.avail = avail.part(availRing, availRingSize(size))
    this.#used = used.part(usedRing, usedRingSize(size))
    this.#availFlags = ringWordAt(avail, availRing)
    this.#availIdxWord = ringWordAt(avail, availRing + 2)
    this.#usedEvent = ringWordAt(avail, availRing + VIRTQ_RING_OFFSET + VIRTQ_AVAIL_ELEM_SIZE * size)
    this.#usedFlags = ringWordAt(used, usedRing)
    this.#usedIdxWord = ringWordAt(used, usedRing + 2)
    this.#availEvent = ringWordAt(used, usedRing + VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * size)
    this.#isShared = avail.shared || used.shared
    this.#sharedAvailIdx = this.#availIdxWord.forAtomics
    this.#sharedUsedIdx = this.#usedIdxWord.forAtomics
    this.#storedEvent = -1
    this.#usedEventAt = availRingSize(size) - VIRTQ_EVENT_SIZE
    this.#availEventAt = usedRingSize(size) - VIRTQ_EVENT_SIZE
    this.generation = generation
    this.#setRows()
  }

  #setRows(): void {
    this.splitRows = this.table.region.isBigEndian || this.hasSaved ? undefined : this
  }

  /**
   * Takes the next chain that `look` has seen into `chain`. Returns false when there is none. @throws VirtqueueError when the ring or the
   * chain is broken; then the queue must not be used any more.
   */
  pop(chain: DescriptorChain): boolean {
    if (!this.#savedHeads.isEmpty) return this.#takeAgain(chain)
    if (this.lastAvail === this.availIdx) return false
    // A driver that offers descriptors again before it gets them back could make us hold any number of requests.
    if (this.inFlight >= this.size) throw tooManyInFlight(this.size)
    this.table.walk(chain, this.avail.getUint16(RING_OFFSET + AVAIL_ELEM_SIZE * (this.lastAvail & (this.size - 1)), true))
    this.lastAvail = (this.lastAvail + 1) & 0xffff
    this.inFlight++
    return true
  }

  /** Takes a chain that was in flight when the state was saved. It counts as in flight already. */
  #takeAgain(chain: DescriptorChain): boolean {
    this.table.walk(chain, this.#savedHeads.next)
    this.#passSaved()
    return true
  }

  passSaved(chain: Changeable<TakenChain>): void {
    chain.head = this.#savedHeads.next
    this.#passSaved()
  }

  #passSaved(): void {
    this.#savedHeads.pass()
    this.#setRows()
  }

  get hasSaved(): boolean {
    return !this.#savedHeads.isEmpty
  }

  countWaiting(): number {
    return (this.#loadAvailIdx() - this.lastAvail) & 0xffff
  }

  /** As in `Ring`. @throws VirtqueueError when the driver claims more chains than the ring has descriptors */
  look(): boolean {
    // An acquire in shared RAM: ring slots and descriptors are read after it.
    const availIdx = this.#loadAvailIdx()
    const waiting = (availIdx - this.lastAvail) & 0xffff
    if (waiting > this.size) throw tooFarAhead(availIdx, this.lastAvail, this.size)
    this.availIdx = availIdx
    return waiting !== 0 || (this.splitRows === undefined && this.hasSaved)
  }

  #loadAvailIdx(): number {
    if (this.#sharedAvailIdx !== undefined) return Atomics.load(this.#sharedAvailIdx, 0)
    return this.#isShared ? this.#availIdxWord.load() : this.avail.getUint16(IDX, true)
  }

  /** Gives a chain back. `length`: bytes that the device has written into it, from its first writable byte on. */
  addUsed(chain: TakenChain, length: number): void {
    const at = RING_OFFSET + USED_ELEM_SIZE * (this.#usedIdx & (this.size - 1))
    this.#used.setUint32(at, chain.head, true)
    this.#used.setUint32(at + 4, length, true)
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff
    this.inFlight--
  }

  giveBackOnly(head: number, length: number): number {
    const used = this.#used
    const old = this.#publishedIdx
    const { lastAvail } = this
    const at = (RING_OFFSET + USED_ELEM_SIZE * (this.#usedIdx & (this.size - 1))) >>> 0
    const now = (this.#usedIdx + 1) & 0xffff
    used.setUint32(at, head, true)
    used.setUint32((at + 4) >>> 0, length, true)
    this.#usedIdx = this.#publishedIdx = now
    this.inFlight--
    this.#storedEvent = -1
    if (this.#hasEventIdx === true) used.setUint16(this.#availEventAt, lastAvail, true)
    // In shared RAM earlier stores become visible before this one; avail.idx is read after it, and then the driver's flags or event index
    // ([VIRTIO] 2.7.8.2, 2.7.7.2).
    if (this.#sharedUsedIdx === undefined) used.setUint16(IDX, now, true)
    else Atomics.store(this.#sharedUsedIdx, 0, now)
    const availIdx = this.#loadAvailIdx()
    const isWanted = this.#hasEventIdxOnly === true
      ? needsEvent(this.avail.getUint16(this.#usedEventAt, true), now, old)
      : this.#wantsInterrupt(now, old)
    return (isWanted ? WANTED : 0) | (availIdx === lastAvail ? 0 : MORE)
  }

  addUsedRows(rows: Uint32Array, count: number): void {
    const used = this.#used
    const slotMask = this.size - 1
    const end = ROW * count
    let usedIdx = this.#usedIdx
    for (let row = 0; row < end; row += ROW) {
      const at = (RING_OFFSET + USED_ELEM_SIZE * (usedIdx & slotMask)) >>> 0
      used.setUint32(at, rows[row + HEAD] ?? 0, true)
      used.setUint32((at + 4) >>> 0, rows[row + WRITTEN] ?? 0, true)
      usedIdx++
    }
    this.#usedIdx = usedIdx & 0xffff
    this.inFlight -= count
  }

  /** Shows the driver the chains that `addUsed` has collected. Returns true when the driver wants an interrupt for them. */
  publish(): boolean {
    const old = this.#publishedIdx
    const now = this.#usedIdx
    if (now === old) return false
    this.#publishedIdx = now
    if (this.#isShared || !this.#hasEventIdxOnly || this.#memory.written !== undefined) return this.#publishOtherwise(now, old)
    this.#used.setUint16(IDX, now, true)
    return needsEvent(this.avail.getUint16(this.#usedEventAt, true), now, old)
  }

  /** A function of its own, so that V8 inlines `publish`. */
  #publishOtherwise(now: number, old: number): boolean {
    // `enableKicks` would store this next: here it shares the barrier of the used index (12 ns each, measured).
    if (this.#hasEventIdx && this.lastAvail === this.availIdx && this.#memory.written === undefined) {
      this.#used.setUint16(this.#availEventAt, this.lastAvail, true)
      this.#storedEvent = this.lastAvail
    }
    // Earlier stores become visible before this one, and the driver's event index is read after it ([VIRTIO] 2.7.8.2, 2.7.7.2).
    this.#usedIdxWord.store(now)
    announceUsed(this.#memory, this.#areas, old, now)
    return this.#wantsInterrupt(now, old)
  }

  #wantsInterrupt(now: number, old: number): boolean {
    const { eventIdx, notifyOnEmpty } = this.#features
    if (notifyOnEmpty && this.inFlight === 0 && this.#availIdxWord.load() === this.lastAvail) return true
    return eventIdx ? needsEvent(this.#usedEvent.load(), now, old) : (this.#availFlags.load() & NO_INTERRUPT) === 0
  }

  /**
   * Asks for a kick with the next chain. Returns true if a chain became available before that, for which the driver need not kick ([VIRTIO]
   * 2.7.10.2).
   */
  enableKicks(): boolean {
    if (this.#hasEventIdx) {
      if (this.#isShared || this.#memory.written !== undefined) this.#storeAvailEvent()
      else this.#used.setUint16(this.#availEventAt, this.lastAvail, true)
    }
    return this.look()
  }

  #storeAvailEvent(): void {
    const isStored = this.#storedEvent === this.lastAvail
    this.#storedEvent = -1
    if (isStored) return
    this.#availEvent.store(this.lastAvail)
    this.#memory.written?.(this.#areas.usedRing + this.#availEventAt, VIRTQ_EVENT_SIZE)
  }
}
