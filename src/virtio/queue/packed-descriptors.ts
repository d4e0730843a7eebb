/**
 * PackedDescriptors reads the descriptors of a packed ring ([VIRTIO] 2.8): where the next chain begins, whether it is available, and its
 * buffers as a checked list of RAM segments. Whatever the driver has written, a walk ends, and it touches only RAM.
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

/** [VIRTIO] 2.8.5 limits a list to as many descriptors as the queue size. As in a split ring, we accept 1024 in any queue. */
const LIST_LIMIT = 1024

/** A chain describes at most this many bytes, as in a split ring. */
const MAX_CHAIN_LENGTH = 2 ** 32

const NOWHERE = new RamRegion(0, new Uint8Array(0))

/** Where a walk reads descriptors, and which marks they must have. */
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
  // Initialised with numbers: V8 would check and convert a field that was once undefined on each use.
  /** Number of descriptors in the ring. */
  readonly size: number = 0
  /** The region that holds the ring, and the ring's byte offset in it. */
  region: RamRegion = NOWHERE
  offset = 0
  /** Where the next chain begins, and the marks of an available descriptor there: AVAIL in laps with wrap counter 1, USED in the others. */
  slot = 0
  marks = 0
  /** Descriptors that each recent chain took up; at most as many as the ring has. */
  usualSlots = 1
  /** Descriptors that the next chain may take up: those not in flight. */
  room = 0
  readonly #memory: GuestMemory
  readonly #listLimit: number = 0
  #view: DataView = NOWHERE.data
  /** If RAM is shared: the ring as 16-bit words, for Atomics. */
  words: Uint16Array | undefined
  /** The region of the last segment, which is nearly always that of the next one too. */
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

  /** The ring is at guest-physical `address`. @throws VirtqueueError when it is not in one piece of RAM, or the guest is big-endian */
  place(address: number): void {
    this.region = pieceOfRam(this.#memory, "descriptor ring", address, this.size * DESC_SIZE)
    if (this.region.isBigEndian) throw new VirtqueueError("a packed ring of a big-endian guest: only split rings can be big-endian")
    this.offset = this.region.offset(address)
    this.#view = this.region.part(address, this.size * DESC_SIZE)
    this.words = this.region.shared ? this.region.words(address, this.size * DESC_SIZE / 2) : undefined
    this.#region = undefined
  }

  /** Whether the driver has made the next descriptor available. In shared RAM this is an acquire: later reads come after it. */
  get isAvailable(): boolean {
    const flags = this.words === undefined ? this.#view.getUint16((this.slot << 4) + 14, true) : this.#sharedFlags(this.words)
    return (flags & MARKS) === this.marks
  }

  /** A function of its own, so that V8 inlines `isAvailable`. */
  #sharedFlags(words: Uint16Array): number {
    return Atomics.load(words, 8 * this.slot + 7)
  }

  /**
   * How many of the next `most` chains are available according to plain loads, if each takes up `usualSlots` descriptors. In shared RAM
   * this orders nothing: later reads may come before it.
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

  /** The marks of a used descriptor at `slot`. */
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

  /** Writes a used descriptor. In shared RAM its flags become visible last; otherwise one store writes id and flags. */
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
   * Writes the used descriptors of the first `count` rows, from `slot` on. Returns how many descriptors the chains take up. The first used
   * descriptor is written last: a driver reads them in order, so the first makes all of them visible.
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

  /** Fills `chain` from saved descriptors, four 32-bit words each. @throws VirtqueueError when the chain is broken */
  walkSaved(chain: DescriptorChain, descriptors: readonly number[]): void {
    const view = new DataView(new ArrayBuffer(4 * descriptors.length))
    for (const [index, word] of descriptors.entries()) view.setUint32(4 * index, word, true)
    const size = descriptors.length / 4
    // Replaces the marks, which differ between descriptors if the chain ran past the ring's end.
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
    /** Entries left of an indirect table; 0 while the walk is in the ring. */
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
      // In an indirect table every flag except WRITE is ignored ([VIRTIO] 2.8.7).
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

  /** Adds bytes that are not all in the last segment's region. Returns the region of the last byte so far. */
  #pushSlowly(segments: SegmentList, slot: number, address: number, length: number): RamRegion | undefined {
    this.#region = pushPieces(this.#memory, segments, address, length, `in slot ${slot}`) ?? this.#region
    return this.#region
  }

  /** The region of the indirect table that a descriptor refers to. @throws VirtqueueError when the descriptor or the table is invalid */
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
