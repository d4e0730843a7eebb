/**
 * SplitQueue: the device's side of a split virtqueue ([VIRTIO] 2.7) that the driver has enabled.
 * `pop` takes chains in, validated; `addUsed` gives them back; `publish` shows them to the driver and says whether to interrupt.
 */
import type { GuestMemory, RamRegion } from "../guest-memory.ts"
import type { DescriptorChain, SegmentList } from "./descriptor-chain.ts"
import type { QueueAreas, Ring, RingFeatures, RingPosition, RingStart } from "./ring.ts"
import { VirtqueueError } from "./virtqueue-error.ts"
import { availRingSize, usedRingSize, VIRTQ_AVAIL_ELEM_SIZE, VIRTQ_AVAIL_F, VIRTQ_DESC_F, VIRTQ_DESC_SIZE, VIRTQ_EVENT_SIZE, VIRTQ_RING_OFFSET, VIRTQ_USED_ELEM_SIZE } from "../spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F
const [DESC_SIZE, RING_OFFSET, AVAIL_ELEM_SIZE, USED_ELEM_SIZE] = [VIRTQ_DESC_SIZE, VIRTQ_RING_OFFSET, VIRTQ_AVAIL_ELEM_SIZE, VIRTQ_USED_ELEM_SIZE] as const

/** [VIRTIO] 2.7.5.2 asks drivers for no more descriptors in a chain than the queue size. Like QEMU, we take 1024 in any queue. */
const CHAIN_LIMIT = 1024

/** A chain describes at most this many bytes ([VIRTIO] 2.7.5.2). */
const MAX_CHAIN_LENGTH = 2 ** 32

export class SplitQueue implements Ring {
  readonly size: number
  features: RingFeatures
  /** Chains popped and not yet given back. */
  inFlight = 0
  readonly #areas: QueueAreas
  readonly #memory: GuestMemory
  readonly #chainLimit: number
  /** Of the memory that the views below belong to. */
  #generation = -1
  #desc: DataView = EMPTY
  #avail: DataView = EMPTY
  #used: DataView = EMPTY
  // flags and idx of each ring, for Atomics: another thread may be the driver ([VIRTIO] 2.7.13.3, 2.7.14). Each is touched once a batch.
  #availHeader: Uint16Array = new Uint16Array(2)
  #usedHeader: Uint16Array = new Uint16Array(2)
  // The event indices: used_event, the driver's, behind the available ring; avail_event, ours, behind the used ring.
  #usedEvent: Uint16Array = new Uint16Array(1)
  #availEvent: Uint16Array = new Uint16Array(1)
  /** The region of the last segment; nearly always that of the next one too. */
  #region: RamRegion | undefined
  // Free-running 16-bit indices ([VIRTIO] 2.7.6): never taken modulo the queue size but to find a slot.
  #availIdx = 0
  #lastAvail = 0
  #usedIdx = 0
  /** #usedIdx as the driver sees it, and as it was when the last interrupt decision was made. */
  #publishedIdx = 0

  /** Heads of chains that were in flight when the state was saved; undefined once all have been taken again. */
  #headsToTake: number[] | undefined

  constructor(memory: GuestMemory, areas: QueueAreas, features: RingFeatures, start: RingStart) {
    this.#availIdx = start.avail
    this.#lastAvail = start.avail
    this.#usedIdx = start.used
    this.#publishedIdx = start.used
    this.#headsToTake = start.heads.length > 0 ? [...start.heads] : undefined
    this.inFlight = start.heads.length
    this.#memory = memory
    this.#areas = areas
    // An integer to V8, which keeps what comes from a typed array or a register as a double: comparisons of doubles cost 3 ns each (measured).
    this.size = areas.size | 0
    this.features = features
    this.#chainLimit = Math.max(this.size, CHAIN_LIMIT)
    if (areas.availRing % 2 !== 0) throw new VirtqueueError(`available ring at odd address ${hex(areas.availRing)}`)
    if (areas.usedRing % 2 !== 0) throw new VirtqueueError(`used ring at odd address ${hex(areas.usedRing)}`)
    this.refresh()
    this.#initialiseFlags()
  }

  get position(): RingPosition {
    return { avail: this.#lastAvail, used: this.#usedIdx }
  }

  get headsToTake(): readonly number[] {
    return this.#headsToTake ?? []
  }

  /** used.flags is 0: kicks are wanted, and with EVENT_IDX it must be ([VIRTIO] 2.7.10.1). Drivers may have left anything there. */
  #initialiseFlags(): void {
    if (Atomics.load(this.#usedHeader, 0) === 0) return
    Atomics.store(this.#usedHeader, 0, 0)
    this.#memory.written?.(this.#areas.usedRing, 2)
  }

  /** Looks up the rings again when the guest's memory has been replaced. To be called before each run of pops, and before completions. */
  refresh(): void {
    const { generation } = this.#memory
    if (generation !== this.#generation) this.#lookUp(generation)
  }

  /** The rare part of `refresh`, apart, so that V8 inlines the usual one. */
  #lookUp(generation: number): void {
    const { size, descriptorTable, availRing, usedRing } = this.#areas
    const desc = this.#part("descriptor table", descriptorTable, size * VIRTQ_DESC_SIZE)
    const avail = this.#part("available ring", availRing, availRingSize(size))
    const used = this.#part("used ring", usedRing, usedRingSize(size))
    this.#desc = desc.part(descriptorTable, size * VIRTQ_DESC_SIZE)
    this.#avail = avail.part(availRing, availRingSize(size))
    this.#used = used.part(usedRing, usedRingSize(size))
    this.#availHeader = words(avail, availRing, 2)
    this.#usedHeader = words(used, usedRing, 2)
    this.#usedEvent = words(avail, availRing + VIRTQ_RING_OFFSET + VIRTQ_AVAIL_ELEM_SIZE * size, 1)
    this.#availEvent = words(used, usedRing + VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * size, 1)
    this.#region = undefined
    this.#generation = generation
  }

  /**
   * Takes the next available chain into `chain`. Returns false when there is none. Throws VirtqueueError when the ring or the
   * chain is broken; the queue must not be used further then.
   */
  pop(chain: DescriptorChain): boolean {
    if (this.#headsToTake !== undefined) return this.#takeAgain(chain, this.#headsToTake)
    if (this.#lastAvail === this.#availIdx && !this.#lookForMore()) return false
    // A driver that offers descriptors again before it got them back could make us hold any number of requests.
    if (this.inFlight >= this.size) throw tooManyInFlight(this.size)
    const slot = this.#lastAvail & (this.size - 1)
    const head = this.#avail.getUint16(RING_OFFSET + AVAIL_ELEM_SIZE * slot, true)
    this.#walk(chain, head)
    this.#lastAvail = (this.#lastAvail + 1) & 0xffff
    this.inFlight++
    return true
  }

  /** Takes a chain that was in flight when the state was saved. They count as in flight already. */
  #takeAgain(chain: DescriptorChain, heads: number[]): boolean {
    const [head] = heads
    if (head === undefined) throw new Error("no heads are left to take again")
    this.#walk(chain, head)
    this.#headsToTake = heads.length > 1 ? heads.slice(1) : undefined
    return true
  }

  /** Reads the available index again. True when chains wait. */
  #lookForMore(): boolean {
    // The acquire of this load orders it before the reads of ring slots and descriptors.
    const availIdx = Atomics.load(this.#availHeader, 1)
    const waiting = (availIdx - this.#lastAvail) & 0xffff
    if (waiting > this.size) throw new VirtqueueError(`available index ${availIdx} is ${waiting} ahead of ${this.#lastAvail} in a queue of ${this.size}`)
    this.#availIdx = availIdx
    return waiting !== 0
  }

  /**
   * Follows the chain from descriptor `head`, into an indirect table where it leads to one, and fills `chain` with its segments.
   * What grows is kept in local variables until the end: storing it with each descriptor costs a third of the walk (measured).
   */
  #walk(chain: DescriptorChain, head: number): void {
    const { segments } = chain
    const first = segments.count
    let readableCount = 0
    let readableLength = 0
    let writableLength = 0
    let table = this.#desc
    let tableOffset = 0
    let entries = this.size
    let index = head
    let indirect = false
    let region = this.#region
    let regionIndex = region === undefined ? 0 : segments.indexOf(region)
    for (let budget = this.#chainLimit + 1; budget > 0; budget--) {
      if (index >= entries) throw indexOutside(index, entries, head)
      const at = (tableOffset + index * DESC_SIZE) >>> 0 // below 2^32, see RamRegion.offset
      const high = table.getUint32(at + 4, true)
      // Small addresses stay small integers, for which V8 allocates nothing (15 ns a request, measured).
      const address = high === 0 ? table.getUint32(at, true) : table.getUint32(at, true) + high * 0x1_0000_0000
      const length = table.getUint32(at + 8, true)
      const flags = table.getUint16(at + 12, true)
      if ((flags & INDIRECT) !== 0) {
        this.#checkIndirect(head, flags, address, length, indirect)
        const place = region !== undefined && address >= region.start && length <= region.end - address ? region : this.#part("indirect table", address, length)
        table = place.data
        tableOffset = place.offset(address)
        entries = length / DESC_SIZE
        index = 0
        indirect = true
        continue
      }
      if (region !== undefined && address >= region.start && length <= region.end - address && length !== 0) {
        segments.push(regionIndex, region.offset(address), length)
      } else {
        region = this.#pushSlowly(segments, head, address, length)
        regionIndex = region === undefined ? 0 : segments.indexOf(region)
      }
      if ((flags & WRITE) !== 0) {
        writableLength += length
      } else {
        if (writableLength > 0) throw readableBehindWritable(index, head)
        readableLength += length
        readableCount = segments.count - first
      }
      if ((flags & NEXT) === 0) {
        if (readableLength + writableLength > MAX_CHAIN_LENGTH) throw new VirtqueueError(`chain ${head} describes more than 2^32 bytes`)
        chain.head = head
        chain.first = first
        chain.count = segments.count - first
        chain.readableCount = readableCount
        chain.readableLength = readableLength
        chain.writableLength = writableLength
        return
      }
      index = table.getUint16(at + 14, true)
    }
    throw new VirtqueueError(`chain ${head} loops, or is longer than ${this.#chainLimit} descriptors`)
  }

  #checkIndirect(head: number, flags: number, address: number, length: number, nested: boolean): void {
    if (!this.features.indirect) throw new VirtqueueError(`indirect descriptor in chain ${head}, but INDIRECT_DESC was not negotiated`)
    if (nested) throw new VirtqueueError(`indirect descriptor inside an indirect table, chain ${head}`)
    if ((flags & NEXT) !== 0) throw new VirtqueueError(`indirect descriptor with NEXT, chain ${head}`)
    if (length === 0 || length % DESC_SIZE !== 0) throw new VirtqueueError(`indirect table of ${length} bytes at ${hex(address)}, chain ${head}`)
  }

  /**
   * Adds RAM that is not all in the region of the segment before: several segments where it runs from one region into the next, none
   * where it is empty. Returns the region of the last byte.
   */
  #pushSlowly(segments: SegmentList, head: number, address: number, length: number): RamRegion | undefined {
    while (length > 0) {
      const region = this.#memory.region(address)
      if (region === undefined) throw new VirtqueueError(`${hex(address)} is not RAM, chain ${head}`)
      this.#region = region
      const part = Math.min(length, region.end - address)
      segments.push(segments.indexOf(region), region.offset(address), part)
      address += part
      length -= part
    }
    return this.#region
  }

  /** Gives a chain back. `length`: bytes that the device has written into it, from its first writable byte on. */
  addUsed(chain: DescriptorChain, length: number): void {
    const at = RING_OFFSET + USED_ELEM_SIZE * (this.#usedIdx & (this.size - 1))
    this.#used.setUint32(at, chain.head, true)
    this.#used.setUint32(at + 4, length, true)
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff
    this.inFlight--
  }

  /** Forgets a chain that cannot be answered. */
  abandon(): void {
    this.inFlight--
  }

  /** Shows the driver what `addUsed` has collected, if anything. Returns true when the driver wants an interrupt for it. */
  publish(): boolean {
    const old = this.#publishedIdx
    const now = this.#usedIdx
    if (now === old) return false
    // Sequentially consistent: the entries are visible before it, and the driver's event index is read after it ([VIRTIO] 2.7.8.2, 2.7.7.2).
    Atomics.store(this.#usedHeader, 1, now)
    this.#publishedIdx = now
    if (this.#memory.written !== undefined) this.#announce(this.#memory.written.bind(this.#memory), old, now)
    if (this.features.notifyOnEmpty && this.inFlight === 0 && Atomics.load(this.#availHeader, 1) === this.#lastAvail) return true
    if (!this.features.eventIdx) return (Atomics.load(this.#availHeader, 0) & VIRTQ_AVAIL_F.NO_INTERRUPT) === 0
    return needsEvent(Atomics.load(this.#usedEvent, 0), now, old)
  }

  /** Asks for a kick with the next chain. Returns true when one has come in meanwhile, which the driver may not kick for ([VIRTIO] 2.7.10.2). */
  enableKicks(): boolean {
    if (!this.features.eventIdx) return this.#lastAvail !== this.#availIdx || this.#lookForMore()
    Atomics.store(this.#availEvent, 0, this.#lastAvail)
    this.#memory.written?.(this.#areas.usedRing + VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * this.size, VIRTQ_EVENT_SIZE)
    return this.#lastAvail !== this.#availIdx || this.#lookForMore()
  }

  /** Tells the memory which bytes of the used ring have changed, avail_event apart. */
  #announce(written: (address: number, length: number) => void, old: number, now: number): void {
    const { size, usedRing } = this.#areas
    const first = old & (size - 1)
    const count = Math.min((now - old) & 0xffff, size)
    const wrapped = Math.max(first + count - size, 0)
    written(usedRing, VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * wrapped)
    written(usedRing + VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * first, VIRTQ_USED_ELEM_SIZE * (count - wrapped))
  }

  #part(name: string, address: number, length: number): RamRegion {
    const region = this.#memory.region(address)
    if (region === undefined || length > region.end - address) throw new VirtqueueError(`${name} at ${hex(address)}: its ${length} bytes are not in one piece of RAM`)
    return region
  }
}

const LITTLE_ENDIAN_HOST = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1
const EMPTY = new DataView(new ArrayBuffer(0))

/**
 * [VIRTIO] 2.7.7.2, `virtq_need_event` in its appendix A: has the index passed `event` on its way from `old` to `now`? All modulo 2^16: the
 * distances are compared, not the indices.
 */
export function needsEvent(event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff)
}

/** `count` 16-bit words at `address`, for Atomics, which know the host's byte order only: virtio's must be the same. */
function words(region: RamRegion, address: number, count: number): Uint16Array {
  if (!LITTLE_ENDIAN_HOST) throw new Error("virtqueues need a little-endian host")
  return region.words(address, count)
}

// Errors are built out of line: their templates would make `#walk` too large for V8 to optimise well.

function tooManyInFlight(size: number): VirtqueueError {
  return new VirtqueueError(`more than ${size} chains in flight: the driver reused descriptors that it had not got back`)
}

function indexOutside(index: number, entries: number, head: number): VirtqueueError {
  return new VirtqueueError(`descriptor index ${index} in a table of ${entries}, chain ${head}`)
}

function readableBehindWritable(index: number, head: number): VirtqueueError {
  return new VirtqueueError(`device-readable descriptor ${index} behind a writable one, chain ${head}`)
}

function hex(address: number): string {
  return `0x${address.toString(16)}`
}
