/**
 * The usual request, read fast, against the same chain on the general way: over descriptors with every field mutated, and over RAM that
 * another thread changes between two reads.
 */
import { BlkRequest, parseRequest } from "../../src/virtio/blk/request.ts"
import { readUsual } from "../../src/virtio/blk/usual/split-request.ts"
import { type GuestMemory, RamRegion } from "../../src/virtio/guest-memory.ts"
import { DescriptorChain, SegmentList } from "../../src/virtio/queue/descriptor-chain.ts"
import { DescriptorTable } from "../../src/virtio/queue/descriptor-table.ts"
import { VirtqueueError } from "../../src/virtio/queue/virtqueue-error.ts"
import type { Rng } from "../support/rng.ts"

const START = 0x1_0000
const LENGTH = 0x4000
const TABLE = 0x100
const SIZE = 16
const INDIRECT_TABLE = 0x800
const [NEXT, WRITE, INDIRECT] = [1, 2, 4] as const

/** What a way of reading makes of a chain, in plain values. */
export interface Reading {
  readonly head: number
  readonly type: number
  readonly sector: number
  readonly dataLength: number
  /** Guest-physical address and length of each stretch of data. */
  readonly data: readonly (readonly [number, number])[]
  readonly status: number
  readonly writableBefore: number
}

function readingOf(request: BlkRequest): Reading {
  const { head, type, sector, dataLength, writableBefore, outcome, done } = request
  if (outcome !== 0 || done !== 0) throw new Error(`outcome ${outcome}, done ${done}`)
  const data = Array.from({ length: request.count }, (_, at) => [request.address(at), request.length(at)] as const)
  return { head, type, sector, dataLength, data, status: request.statusRegion.start + request.statusOffset, writableBefore }
}

/** One table of descriptors in RAM of its own, and both ways of reading it. */
export class UsualRequestFuzzer {
  /** How often the fast way took a chain, left a sound one to the other way, and left a broken one. */
  readonly counts = { taken: 0, left: 0, broken: 0, changed: 0 }
  readonly #rng: Rng
  readonly #ram = new Uint8Array(LENGTH)
  readonly #data = new DataView(this.#ram.buffer)
  readonly #table: DescriptorTable
  readonly #fast = new BlkRequest(new SegmentList())

  constructor(rng: Rng) {
    this.#rng = rng
    const region = new RamRegion(START, this.#ram)
    // A second region, for buffers that are not beside the table.
    const other = new RamRegion(2 * START, new Uint8Array(0x1000))
    const memory: GuestMemory = {
      generation: 0,
      region: (address) => [region, other].find(({ start, end }) => address >= start && address < end),
    }
    this.#table = new DescriptorTable(memory, SIZE, true)
    this.#table.place(START + TABLE)
  }

  /** Reads one random chain both ways. @throws Error where they differ */
  round(): void {
    const head = this.#layOut()
    for (let count = this.#rng.below(4); count > 0; count--) this.#mutate()
    this.#table.indirect = this.#rng.chance(0.9)
    const fast = this.#readFast(head)
    const general = this.#readGenerally(head)
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
    const head = this.#layOut()
    for (let count = this.#rng.below(2); count > 0; count--) this.#mutate()
    this.#table.indirect = true
    const fast = this.#whileChanging(() => this.#readFast(head))
    if (fast === undefined) return
    this.counts.changed++
    const sum = fast.data.reduce((bytes, [, length]) => bytes + length, 0)
    const inside = (address: number, length: number) => address >= START && length > 0 && address + length <= START + LENGTH
    const sound = fast.data.length > 0 && fast.data.every(([address, length]) => inside(address, length)) && inside(fast.status, 1)
    const fits = fast.writableBefore === (fast.type === 0 ? sum : 0) && (fast.type === 0 || fast.type === 1)
    if (sum !== fast.dataLength || !sound || !fits) throw new Error(`RAM that changed: ${JSON.stringify(fast)}, ${sum} bytes in all`)
  }

  #readFast(head: number): Reading | undefined {
    const request = this.#fast
    request.segments.clear()
    request.segments.push(request.segments.indexOf(this.#table.region), 1, 2)
    if (readUsual(request, this.#table, head)) {
      if (request.segments.count !== 1 + request.count || request.first !== 1) throw new Error("segments of nobody")
      return readingOf(request)
    }
    if (request.segments.count !== 1) throw new Error("a chain that is left has changed the list of segments")
    return undefined
  }

  #readGenerally(head: number): Reading | undefined {
    const chain = new DescriptorChain(new SegmentList())
    const request = new BlkRequest(new SegmentList())
    try {
      this.#table.walk(chain, head)
      parseRequest(request, chain, this.#rng.chance(0.5) && request.type < 2)
    } catch (error) {
      if (error instanceof VirtqueueError) return undefined
      throw error
    }
    return readingOf(request)
  }

  /** A request that a driver could make, direct or indirect. Returns its head. */
  #layOut(): number {
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
    const indirect = rng.chance(0.5)
    const order = indirect ? chain.map((_, at) => at) : this.#shuffled(chain.length)
    const base = indirect ? INDIRECT_TABLE : TABLE
    for (const [at, { address, length, flags }] of chain.entries()) {
      const next = order[at + 1]
      this.#describe(base, order[at] ?? 0, { address, length, flags: flags | (next === undefined ? 0 : NEXT), next: next ?? rng.below(20) })
    }
    // What lies behind the table looks as if it belonged to it.
    const trap = { address: START + 0xe20, length: 1, flags: WRITE, next: 0 }
    this.#describe(base, indirect ? chain.length : SIZE, trap)
    if (rng.chance(0.1)) this.#data.setUint16(base + 16 * (order[chain.length - 2] ?? 0) + 14, indirect ? chain.length : SIZE, true)
    if (!indirect) return order[0] ?? 0
    const head = rng.below(SIZE + 1)
    this.#describe(TABLE, head, { address: START + INDIRECT_TABLE, length: 16 * chain.length, flags: INDIRECT, next: 0 })
    return head
  }

  #shuffled(count: number): number[] {
    const all = Array.from({ length: SIZE }, (_, index) => index)
    return Array.from({ length: count }, () => all.splice(this.#rng.below(all.length), 1)[0] ?? 0)
  }

  #describe(
    table: number,
    index: number,
    one: { readonly address: number; readonly length: number; readonly flags: number; readonly next: number },
  ): void {
    const at = table + 16 * index
    this.#data.setBigUint64(at, BigInt(one.address), true)
    this.#data.setUint32(at + 8, one.length, true)
    this.#data.setUint16(at + 12, one.flags, true)
    this.#data.setUint16(at + 14, one.next, true)
  }

  /** Changes one field of one descriptor, or a word of a header. */
  #mutate(): void {
    const rng = this.#rng
    const data = this.#data
    const at = rng.pick([TABLE, INDIRECT_TABLE]) + 16 * rng.below(rng.pick([8, SIZE]))
    const lengths = [0, 1, 2, 15, 16, 17, 512, 0xffff_ffff, 0xffff_fff0, 0x8000_0000, 0x4000_0000, LENGTH, LENGTH - 1, rng.below(LENGTH)]
    const addresses = [
      START - 1,
      START,
      START + LENGTH - 1,
      START + LENGTH,
      0,
      0xffff_ffff,
      2 * START,
      2 * START + 0xfff,
      START + rng.below(LENGTH),
      START + INDIRECT_TABLE,
    ]
    rng.pick([
      () => data.setUint32(at, rng.pick(addresses), true),
      () => data.setUint32(at + 4, rng.pick([1, 0x8000_0000, 0xffff_ffff]), true),
      () => data.setUint32(at + 8, rng.pick(lengths), true),
      () => data.setUint16(at + 12, rng.pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xffff, 0x8001]), true),
      () => data.setUint16(at + 14, rng.pick([0, 1, 2, 15, 16, 17, 0x8000, 0xffff, rng.below(20)]), true),
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
