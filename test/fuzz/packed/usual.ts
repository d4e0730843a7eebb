/**
 * The usual request of a packed ring, read fast, against the same chain on the general way: over descriptors with every field mutated, and
 * over RAM that another thread changes between two reads.
 */
import { BlkRequest, parseRequest } from "../../../src/virtio/blk/request.ts"
import { readUsualPacked } from "../../../src/virtio/blk/usual/packed-request.ts"
import { type GuestMemory, RamRegion } from "../../../src/virtio/guest-memory.ts"
import { DescriptorChain, SegmentList } from "../../../src/virtio/queue/descriptor-chain.ts"
import { PackedDescriptors } from "../../../src/virtio/queue/packed-descriptors.ts"
import { VirtqueueError } from "../../../src/virtio/queue/virtqueue-error.ts"
import type { Rng } from "../../support/rng.ts"

const START = 0x1_0000
const LENGTH = 0x4000
const TABLE = 0x100
/** Not a power of two. */
const SIZE = 11
const INDIRECT_TABLE = 0x800
const [NEXT, WRITE, INDIRECT, AVAIL, USED] = [1, 2, 4, 0x80, 0x8000] as const

/** What a way of reading makes of a chain, in plain values. */
interface Reading {
  readonly id: number
  readonly slots: number
  readonly type: number
  readonly sector: number
  readonly dataLength: number
  /** Guest-physical address and length of each stretch of data. */
  readonly data: readonly (readonly [number, number])[]
  readonly status: number
  readonly writableBefore: number
}

function readingOf(request: BlkRequest): Reading {
  const { head: id, slots, type, sector, dataLength, writableBefore, outcome, done } = request
  if (outcome !== 0 || done !== 0) throw new Error(`outcome ${outcome}, done ${done}`)
  const data = Array.from({ length: request.count }, (_, at) => [request.address(at), request.length(at)] as const)
  return { id, slots, type, sector, dataLength, data, status: request.statusRegion.start + request.statusOffset, writableBefore }
}

export class PackedUsualFuzzer {
  /** How often the fast way took a chain, left a sound one to the other way, and left a broken one. */
  readonly counts = { taken: 0, left: 0, broken: 0, changed: 0 }
  readonly #rng: Rng
  readonly #ram = new Uint8Array(LENGTH)
  readonly #data = new DataView(this.#ram.buffer)
  readonly #memory: GuestMemory
  #ring: PackedDescriptors
  readonly #fast = new BlkRequest(new SegmentList())

  constructor(rng: Rng) {
    this.#rng = rng
    const region = new RamRegion(START, this.#ram)
    // A second region, for buffers that are not beside the ring.
    const other = new RamRegion(2 * START, new Uint8Array(0x1000))
    this.#memory = {
      generation: 0,
      region: (address) => [region, other].find(({ start, end }) => address >= start && address < end),
    }
    this.#ring = this.#newRing()
  }

  #newRing(): PackedDescriptors {
    const rng = this.#rng
    const ring = new PackedDescriptors(this.#memory, {
      size: SIZE, indirect: rng.chance(0.9), slot: rng.below(SIZE), wrap: rng.chance(0.5),
    })
    ring.place(START + TABLE)
    ring.room = rng.chance(0.8) ? SIZE : rng.between(1, SIZE)
    return ring
  }

  /** Reads one random chain both ways. @throws Error where they differ */
  round(): void {
    this.#ring = this.#newRing()
    this.#layOut()
    for (let count = this.#rng.below(4); count > 0; count--) this.#mutate()
    const fast = this.#readFast()
    const general = this.#readGenerally()
    if (fast === undefined) {
      this.counts[general === undefined ? "broken" : "left"]++
      return
    }
    this.counts.taken++
    if (JSON.stringify(fast) !== JSON.stringify(general)) {
      throw new Error(`fast ${JSON.stringify(fast)}, generally ${general === undefined ? "broken" : JSON.stringify(general)}`)
    }
  }

  /** Reads one chain the fast way while fields change after a random number of reads. What it takes must hold together all the same. */
  changingRound(): void {
    this.#ring = this.#newRing()
    this.#layOut()
    for (let count = this.#rng.below(2); count > 0; count--) this.#mutate()
    const fast = this.#whileChanging(() => this.#readFast())
    if (fast === undefined) return
    this.counts.changed++
    const sum = fast.data.reduce((bytes, [, length]) => bytes + length, 0)
    const inside = (address: number, length: number) => address >= START && length > 0 && address + length <= START + LENGTH
    const sound = fast.data.length > 0 && fast.data.every(([address, length]) => inside(address, length)) && inside(fast.status, 1)
    const fits = fast.writableBefore === (fast.type === 0 ? sum : 0) && (fast.type === 0 || fast.type === 1)
    const isCounted = fast.slots >= 1 && fast.slots <= this.#ring.room
    if (sum !== fast.dataLength || !sound || !fits || !isCounted) throw new Error(`RAM that changed: ${JSON.stringify(fast)}, ${sum} bytes`)
  }

  #readFast(): Reading | undefined {
    const request = this.#fast
    request.segments.clear()
    request.segments.push(request.segments.indexOf(this.#ring.region), 1, 2)
    if (readUsualPacked(request, this.#ring)) {
      if (request.segments.count !== 1 + request.count || request.first !== 1) throw new Error("segments of nobody")
      return readingOf(request)
    }
    if (request.segments.count !== 1) throw new Error("a chain that is left has changed the list of segments")
    return undefined
  }

  #readGenerally(): Reading | undefined {
    const chain = new DescriptorChain(new SegmentList())
    const request = new BlkRequest(new SegmentList())
    try {
      this.#ring.walk(chain)
      parseRequest(request, chain, false)
    } catch (error) {
      if (error instanceof VirtqueueError) return undefined
      throw error
    }
    return readingOf(request)
  }

  /** A request that a driver could make, direct or indirect, in the next slots. */
  #layOut(): void {
    const rng = this.#rng
    this.#ram.set(rng.bytes(64), rng.below(LENGTH - 64))
    const isIn = rng.chance(0.5)
    const pieces = Array.from(
      { length: rng.pick([1, 1, 1, 2, 5]) },
      () => ({ address: START + 0x1000 + rng.below(0x2000), length: rng.pick([512, 1024, 1, 4096]), flags: isIn ? WRITE : 0 }),
    )
    const header = START + 0xc00 + rng.below(0x100)
    this.#data.setUint32(header - START, isIn ? 0 : 1, true)
    this.#data.setUint32(header - START + 8, rng.u32(), true)
    this.#data.setUint32(header - START + 12, rng.chance(0.9) ? 0 : rng.u32(), true)
    const chain = [{ address: header, length: 16, flags: 0 }, ...pieces, {
      address: START + 0xe00 + rng.below(16), length: 1, flags: WRITE,
    }]
    if (rng.chance(0.5)) {
      for (const [at, one] of chain.entries()) this.#describe(INDIRECT_TABLE + 16 * at, one)
      // What lies behind the table looks as if it belonged to it.
      this.#describe(INDIRECT_TABLE + 16 * chain.length, { address: START + 0xe20, length: 1, flags: WRITE })
      this.#putInRing([{ address: START + INDIRECT_TABLE, length: 16 * chain.length, flags: INDIRECT | (rng.chance(0.2) ? WRITE : 0) }])
    } else this.#putInRing(chain.map((one, at) => ({ ...one, flags: one.flags | (at === chain.length - 1 ? 0 : NEXT) })))
  }

  #putInRing(chain: readonly { readonly address: number; readonly length: number; readonly flags: number }[]): void {
    let { slot, marks } = this.#ring
    for (const one of chain) {
      this.#describe(TABLE + 16 * slot, { ...one, flags: one.flags | marks })
      if (++slot < SIZE) continue
      slot = 0
      marks ^= AVAIL | USED
    }
  }

  #describe(at: number, one: { readonly address: number; readonly length: number; readonly flags: number }): void {
    this.#data.setBigUint64(at, BigInt(one.address), true)
    this.#data.setUint32(at + 8, one.length, true)
    this.#data.setUint16(at + 12, this.#rng.below(0x1_0000), true)
    this.#data.setUint16(at + 14, one.flags, true)
  }

  /** Changes one field of one descriptor, or a word of a header. */
  #mutate(): void {
    const rng = this.#rng
    const data = this.#data
    const at = rng.chance(0.5) ? TABLE + 16 * ((this.#ring.slot + rng.below(8)) % SIZE) : INDIRECT_TABLE + 16 * rng.below(8)
    const lengths = [0, 1, 2, 15, 16, 17, 32, 48, 512, 0xffff_ffff, 0xffff_fff0, 0x8000_0000, LENGTH, LENGTH - 1, rng.below(LENGTH)]
    const addresses = [
      START - 1, START, START + LENGTH - 1, START + LENGTH, 0, 0xffff_ffff, 2 * START, 2 * START + 0xfff, START + rng.below(LENGTH),
      START + INDIRECT_TABLE,
    ]
    rng.pick([
      () => data.setUint32(at, rng.pick(addresses), true),
      () => data.setUint32(at + 4, rng.pick([1, 0x8000_0000, 0xffff_ffff]), true),
      () => data.setUint32(at + 8, rng.pick(lengths), true),
      () => data.setUint16(at + 12, rng.below(0x1_0000), true),
      () => data.setUint16(
        at + 14,
        data.getUint16(at + 14, true) ^ rng.pick([1, 2, 3, 4, 5, 8, 0x80, 0x8000, 0x8080, 0x100, 0xffff]),
        true,
      ),
      () => data.setUint32(0xc00 + 4 * rng.below(0x44), rng.pick([0, 1, 2, 4, 0x8000_0000, 0x8000_0001, rng.u32()]), true),
    ])()
  }

  /** Runs `act` with a DataView whose reads are followed, now and then, by a change of RAM. */
  #whileChanging<T>(act: () => T): T {
    const rng = this.#rng
    const { getUint16, getUint32 } = DataView.prototype
    let left = rng.below(40)
    const after = <V>(value: V): V => {
      if (left-- === 0) {
        left = rng.below(6)
        this.#mutate()
      }
      return value
    }
    DataView.prototype.getUint16 = function (this: DataView, at, little) {
      return after(getUint16.call(this, at, little))
    }
    DataView.prototype.getUint32 = function (this: DataView, at, little) {
      return after(getUint32.call(this, at, little))
    }
    try {
      return act()
    } finally {
      DataView.prototype.getUint16 = getUint16
      DataView.prototype.getUint32 = getUint32
    }
  }
}
