/**
 * PackedDescriptors: the device's reading of a packed ring's descriptors ([VIRTIO] 2.8): where the next chain begins, whether it is there,
 * and what it says, as a checked list of RAM segments. Whatever the driver has written, a walk ends, and touches RAM only.
 */
import { type GuestMemory, RamRegion } from "../guest-memory.ts"
import { PVIRTQ_DESC_F, VIRTQ_DESC_F, VIRTQ_DESC_SIZE } from "../spec.ts"
import { HEAD as HEAD_AT, ROW as ROW_SIZE, SLOTS as SLOTS_AT, WRITTEN as WRITTEN_AT } from "./chain-rows.ts"
import type { DescriptorChain, SegmentList } from "./descriptor-chain.ts"
import { notAvailable, readableBehindWritable, tooLong, tooManyBytes } from "./packed-errors.ts"
import { pieceOfRam, pushPieces } from "./ram-pieces.ts"
import { hex, VirtqueueError } from "./virtqueue-error.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const { AVAIL, USED, MARKS } = PVIRTQ_DESC_F
const DESC_SIZE = VIRTQ_DESC_SIZE
const [ROW, HEAD, SLOTS, WRITTEN] = [ROW_SIZE, HEAD_AT, SLOTS_AT, WRITTEN_AT] as const

/** [VIRTIO] 2.8.5 asks drivers for no more descriptors in a list than the queue size. As in a split ring, we take 1024 in any queue. */
const LIST_LIMIT = 1024

/** A chain describes at most this many bytes, as in a split ring. */
const MAX_CHAIN_LENGTH = 2 ** 32

const NOWHERE = new RamRegion(0, new Uint8Array(0))

/** Where a walk reads descriptors, and which marks it wants to see on them. */
interface Source {
  readonly view: DataView
  readonly size: number
  readonly slot: number
  readonly marks: number
  /** Descriptors that a chain may take up. */
  readonly room: number
}

export class PackedDescriptors {
  /** INDIRECT_DESC has been negotiated. */
  indirect = false
  // Numbers from the start: V8 would check and convert a field that has been undefined with each use.
  /** Number of descriptors in the ring. */
  readonly size: number = 0
  /** The region that the ring lies in, and its byte offset there. */
  region: RamRegion = NOWHERE
  offset = 0
  /** Where the next chain begins, and the marks of an available descriptor there: AVAIL in laps with wrap counter 1, USED in the others. */
  slot = 0
  marks = 0
  /** Descriptors that chains have taken up of late, each of them. No more than there are in the ring. */
  usualSlots = 1
  /** Descriptors that the next chain may take up: the others are in flight. */
  room = 0
  readonly #memory: GuestMemory
  readonly #listLimit: number = 0
  #view: DataView = NOWHERE.data
  /** Where RAM is shared: the ring as 16-bit words, for Atomics. */
  words: Uint16Array | undefined
  /** The region of the last segment; nearly always that of the next one too. */
  #region: RamRegion | undefined

  /** `slot`, `wrap`: where the first chain begins, and the wrap counter there. */
  constructor(
    memory: GuestMemory,
    { size, indirect, slot, wrap }: { readonly size: number; readonly indirect: boolean; readonly slot: number; readonly wrap: boolean },
  ) {
    this.#memory = memory
    this.size = size
    this.indirect = indirect
    this.slot = slot
    this.marks = wrap ? AVAIL : USED
    this.room = size
    this.#listLimit = Math.max(size, LIST_LIMIT)
  }

  /** The ring is at guest-physical `address`. @throws VirtqueueError when it is not in one piece of RAM, or of a big-endian guest */
  place(address: number): void {
    this.region = pieceOfRam(this.#memory, "descriptor ring", address, this.size * DESC_SIZE)
    if (this.region.isBigEndian) throw new VirtqueueError("a packed ring of a big-endian guest: only split rings can be big-endian")
    this.offset = this.region.offset(address)
    this.#view = this.region.part(address, this.size * DESC_SIZE)
    this.words = this.region.shared ? this.region.words(address, this.size * DESC_SIZE / 2) : undefined
    this.#region = undefined
  }

  /** Whether the driver has made the next descriptor available. In shared RAM nothing that follows is read before. */
  get isAvailable(): boolean {
    const flags = this.words === undefined ? this.#view.getUint16((this.slot << 4) + 14, true) : this.#sharedFlags(this.words)
    return (flags & MARKS) === this.marks
  }

  /** Apart from `isAvailable`, which V8 inlines then. */
  #sharedFlags(words: Uint16Array): number {
    return Atomics.load(words, 8 * this.slot + 7)
  }

  /**
   * How many of the next `most` chains are available, as far as plain loads show it, if each of them takes up `usualSlots` descriptors. In
   * shared RAM what follows may be read before that.
   */
  countAhead(most: number): number {
    const { size, usualSlots } = this
    const view = this.#view
    let { slot, marks } = this
    let count = 0
    while (count < most && (view.getUint16((slot << 4) + 14, true) & MARKS) === marks) {
      count++
      slot += usualSlots
      if (slot < size) continue
      slot -= size
      marks ^= MARKS
    }
    return count
  }

  /** Where the next chain begins, as events name it: the slot in bits 0 to 14, the wrap counter in bit 15. */
  get event(): number {
    return this.slot | ((this.marks & AVAIL) << 8)
  }

  /** The marks of a used descriptor there. */
  get usedMarks(): number {
    return (this.marks & AVAIL) * (MARKS / AVAIL)
  }

  /** The next chain begins `slots` descriptors further on. */
  skip(slots: number): void {
    this.slot += slots
    if (this.slot < this.size) return
    this.slot -= this.size
    this.marks ^= MARKS
  }

  /** Writes a used descriptor. Its flags come last, in shared RAM visibly so; otherwise with the id, which saves a store. */
  writeUsed(slot: number, id: number, length: number, marks: number): void {
    const at = DESC_SIZE * slot
    const flags = marks | WRITE
    this.#view.setUint32(at + 8, length, true)
    if (this.words === undefined) this.#view.setUint32(at + 12, id | (flags << 16), true)
    else this.#shareUsed(slot, id, flags)
  }

  #shareUsed(slot: number, id: number, flags: number): void {
    this.#view.setUint16(DESC_SIZE * slot + 12, id, true)
    if (this.words !== undefined) Atomics.store(this.words, 8 * slot + 7, flags)
  }

  /**
   * Writes the used descriptors of the first `count` rows, the first of them into `slot`. Returns how many descriptors those chains take
   * up. The first comes last: a driver sees used descriptors in their order, so with the first it sees all.
   */
  writeUsedRows(rows: Uint32Array, count: number, slot: number, marks: number): number {
    if (count === 0) return 0
    const view = this.#view
    const end = ROW * count
    // In bytes. `>>> 0` as in `takePacked`: V8 would compute in doubles.
    const ringEnd = (DESC_SIZE * this.size) >>> 0
    const first = (DESC_SIZE * slot) >>> 0
    let at = first
    let flags = (marks | WRITE) << 16
    for (let row = 0; row < end; ) {
      at = (at + DESC_SIZE * (rows[row + SLOTS] ?? 0)) >>> 0
      if (at >= ringEnd) {
        at = (at - ringEnd) >>> 0
        flags ^= MARKS << 16
      }
      row += ROW
      if (row === end) break
      view.setUint32((at + 8) >>> 0, rows[row + WRITTEN] ?? 0, true)
      view.setUint32((at + 12) >>> 0, (rows[row + HEAD] ?? 0) | flags, true)
    }
    this.writeUsed(slot, rows[HEAD] ?? 0, rows[WRITTEN] ?? 0, marks)
    return ((at > first ? at : at + ringEnd) - first) / DESC_SIZE
  }

  /** The descriptor in `slot`, as four 32-bit words. */
  read(slot: number): number[] {
    return [0, 4, 8, 12].map((word) => this.#view.getUint32(DESC_SIZE * slot + word, true))
  }

  /** Fills `chain` with the chain that begins in the next slot. @throws VirtqueueError when it is broken */
  walk(chain: DescriptorChain): void {
    const { size, slot, marks, room } = this
    this.#walk(chain, { view: this.#view, size, slot, marks, room })
  }

  /** Fills `chain` with one whose descriptors have been saved, as four 32-bit words each. @throws VirtqueueError when it is broken */
  walkSaved(chain: DescriptorChain, descriptors: readonly number[]): void {
    const view = new DataView(new ArrayBuffer(4 * descriptors.length))
    for (const [index, word] of descriptors.entries()) view.setUint32(4 * index, word, true)
    const size = descriptors.length / 4
    // Those marks that they had in the ring: they may lie on both sides of its end.
    for (let at = 14; at < view.byteLength; at += DESC_SIZE) view.setUint16(at, (view.getUint16(at, true) & ~MARKS) | AVAIL, true)
    this.#walk(chain, { view, size, slot: 0, marks: AVAIL, room: size })
  }

  #walk(chain: DescriptorChain, source: Source): void {
    const { segments } = chain
    const { size, room } = source
    const first = segments.count
    let [readableCount, readableLength, writableLength] = [0, 0, 0]
    let { view, slot, marks } = source
    let tableOffset = 0
    /** Entries of an indirect table that are left; the chain is in the ring while there is none. */
    let left = 0
    let slots = 0
    let entries = 0
    let region = this.#region
    let regionIndex = region === undefined ? 0 : segments.indexOf(region)
    for (;;) {
      const at = (tableOffset + slot * DESC_SIZE) >>> 0 // below 2^32, see RamRegion.offset
      const high = view.getUint32((at + 4) >>> 0, true)
      const lowHalf = view.getUint32(at, true)
      const address = high === 0 ? lowHalf : lowHalf + high * 2 ** 32
      const length = view.getUint32(at + 8, true)
      const flags = view.getUint16(at + 14, true)
      if (left === 0) {
        if ((flags & MARKS) !== marks) throw notAvailable(source.slot, slot)
        chain.head = view.getUint16(at + 12, true)
        slots++
        if ((flags & INDIRECT) !== 0) {
          const place = this.#indirectTable(source.slot, { address, length, isAlone: slots === 1 && (flags & NEXT) === 0 })
          view = place.data
          tableOffset = place.offset(address)
          entries = length / DESC_SIZE
          left = entries
          slot = 0
          continue
        }
      }
      if (region !== undefined && address >= region.start && length <= region.end - address && length !== 0) {
        segments.push(regionIndex, region.offset(address), length)
      } else {
        region = this.#pushSlowly(segments, source.slot, address, length)
        regionIndex = region === undefined ? 0 : segments.indexOf(region)
      }
      if ((flags & WRITE) !== 0) {
        writableLength += length
      } else {
        if (writableLength > 0) throw readableBehindWritable(source.slot)
        readableLength += length
        readableCount = segments.count - first
      }
      slot++
      // In a table neither NEXT nor anything but WRITE counts ([VIRTIO] 2.8.7).
      if (left > 0 ? --left === 0 : (flags & NEXT) === 0) break
      if (left > 0) continue
      if (slots === room) throw tooLong(source.slot, room)
      if (slot === size) {
        slot = 0
        marks ^= MARKS
      }
    }
    if (readableLength + writableLength > MAX_CHAIN_LENGTH) throw tooManyBytes(source.slot)
    chain.slots = slots
    chain.descriptors = slots + entries
    chain.first = first
    chain.count = segments.count - first
    chain.readableCount = readableCount
    chain.readableLength = readableLength
    chain.writableLength = writableLength
  }

  /** Adds RAM that is not all in the region of the segment before. Returns the region of the last byte so far. */
  #pushSlowly(segments: SegmentList, slot: number, address: number, length: number): RamRegion | undefined {
    this.#region = pushPieces(this.#memory, segments, address, length, `in slot ${slot}`) ?? this.#region
    return this.#region
  }

  /** The region with the table that a descriptor refers to. @throws VirtqueueError when it may not, or not to such a table */
  #indirectTable(
    slot: number, { address, length, isAlone }: { readonly address: number; readonly length: number; readonly isAlone: boolean },
  ): RamRegion {
    if (!this.indirect) throw new VirtqueueError(`indirect descriptor in the chain in slot ${slot}, but INDIRECT_DESC was not negotiated`)
    // [VIRTIO] 2.8.5: a list has descriptors of one kind only.
    if (!isAlone) throw new VirtqueueError(`indirect descriptor in a list with others, chain in slot ${slot}`)
    if (length === 0 || length % DESC_SIZE !== 0) {
      throw new VirtqueueError(`indirect table of ${length} bytes at ${hex(address)}, chain in slot ${slot}`)
    }
    if (length / DESC_SIZE > this.#listLimit) {
      throw new VirtqueueError(`indirect table of ${length / DESC_SIZE} descriptors, chain in slot ${slot}; ${this.#listLimit} are allowed`)
    }
    return pieceOfRam(this.#memory, "indirect table", address, length)
  }
}
