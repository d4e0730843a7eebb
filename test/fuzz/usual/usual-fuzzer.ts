/**
 * UsualFuzzer: requests that become rows, read fast or by `WalkedRequests`, against the same chain on the general way: over descriptors
 * with every field mutated, and over RAM that another thread changes between two reads. split.ts and packed.ts have what differs between
 * the two rings.
 */
import { refusalOf } from "../../../src/virtio/blk/refusal.ts"
import { BlkRequest, parseRequest, type RequestLimits } from "../../../src/virtio/blk/request.ts"
import { UsualRequests } from "../../../src/virtio/blk/usual/requests.ts"
import { WalkedRequests } from "../../../src/virtio/blk/usual/walked-requests.ts"
import { type GuestMemory, RamRegion } from "../../../src/virtio/guest-memory.ts"
import { DescriptorChain, SegmentList } from "../../../src/virtio/queue/descriptor-chain.ts"
import { VirtqueueError } from "../../../src/virtio/queue/virtqueue-error.ts"
import type { Rng } from "../../support/rng.ts"

export const START = 0x1_0000
export const LENGTH = 0x6000
export const TABLE = 0x100
export const INDIRECT_TABLE = 0x4000
export const [NEXT, WRITE, INDIRECT] = [1, 2, 4] as const

/** Nothing has been negotiated. */
const NOTHING = { device: { negotiation: { isNegotiated: () => false } }, zoned: { isNegotiated: false } }

/** A descriptor, less what ties it to others. */
export interface Piece {
  readonly address: number
  readonly length: number
  readonly flags: number
}

/** What a way of reading makes of a chain, in plain values. */
export interface Reading {
  readonly outcome: number
  readonly head: number
  /** Descriptors that it takes up in a packed ring; 0 in a split one. */
  readonly slots: number
  readonly type: number
  readonly sector: number
  readonly dataLength: number
  /** Guest-physical address and length of each stretch of data; those that touch are one. */
  readonly data: readonly (readonly [number, number])[]
  readonly status: number
  readonly writableBefore: number
}

/** Descriptors in RAM of their own, and both ways of reading them. */
export abstract class UsualFuzzer {
  /**
   * How often the way took a chain, one whose data are in several stretches, left a sound one to the general way, and left a broken one;
   * and took some while RAM changed.
   */
  readonly counts = { taken: 0, scattered: 0, left: 0, broken: 0, changed: 0 }
  protected readonly rng: Rng
  /** RAM changes while it is read. */
  protected isChanging = false
  protected readonly data: DataView
  protected readonly memory: GuestMemory
  readonly #ram = new Uint8Array(LENGTH)
  readonly #region = new RamRegion(START, this.#ram)
  readonly #rows = new UsualRequests()
  readonly #walked = new WalkedRequests()
  readonly #way: "fast" | "walked"
  #limits: RequestLimits = { capacity: 0, readOnly: false }

  /** `way`: how requests become rows. */
  constructor(rng: Rng, way: "fast" | "walked") {
    this.rng = rng
    this.#way = way
    this.data = new DataView(this.#ram.buffer)
    // A second region, for buffers that are not beside the descriptors.
    const regions = [this.#region, new RamRegion(2 * START, new Uint8Array(0x1000))]
    this.memory = { generation: 0, region: (address) => regions.find(({ start, end }) => address >= start && address < end) }
  }

  /** Puts a sound chain into the ring so many times, as it is or by an indirect table. `changes`: RAM will change while it is read. */
  protected abstract layOut(chain: readonly Piece[], options: { readonly changes: boolean; readonly copies: number }): void
  /** Takes them the fast way. Returns how many chains that has taken from the ring: none when it leaves the first alone. */
  protected abstract takeFast(requests: UsualRequests, limits: RequestLimits, most: number): number
  /** Walks the next of them. @throws VirtqueueError when it is broken */
  protected abstract walk(chain: DescriptorChain): void
  /** The next to be walked is the first of them again. */
  protected abstract beginAgain(): void
  /** Descriptors that a chain takes up: see `Reading`. */
  protected abstract slotsOf(request: BlkRequest): number
  /** Whether the ring has room for so many, of `chains` chains. */
  protected abstract hasRoom(slots: number, chains: number): boolean
  /** Where a descriptor is that is to be changed. */
  protected abstract pickDescriptor(): number
  /** Changes of what is in bytes 12 to 15 of the descriptor at `at`. */
  protected abstract changesOf(at: number): readonly (() => void)[]

  /** Reads copies of one random chain both ways. @throws Error where they differ */
  round(): void {
    const { rng } = this
    this.#limits = { capacity: rng.pick([0, 1, 8, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40, rng.u32()]), readOnly: rng.chance(0.1) }
    const copies = rng.pick([1, 1, 2, 3])
    this.layOut(this.#chain(), { changes: false, copies })
    for (let count = this.rng.below(4); count > 0; count--) this.#mutate()
    const readings = this.#readRows(copies)
    for (const row of readings) {
      this.counts.taken++
      if (row.data.length > 1) this.counts.scattered++
      checkSame(row, this.#readGenerally())
    }
    if (readings.length === copies) return
    const general = this.#readGenerally()
    this.counts[general === undefined ? "broken" : "left"]++
    if (this.#way === "walked") checkSame(this.#readLeft(), general)
  }

  /** Makes rows of chains while fields change after a random number of reads. What it takes must hold together all the same. */
  changingRound(): void {
    this.#limits = { capacity: 2 ** 40, readOnly: false }
    const copies = this.rng.pick([1, 1, 2, 3])
    this.layOut(this.#chain(), { changes: true, copies })
    for (let count = this.rng.below(2); count > 0; count--) this.#mutate()
    const readings = this.#whileChanging(() => this.#readRows(copies))
    if (this.#way === "walked") this.#readLeft()
    if (readings.length === 0) return
    this.counts.changed++
    if (!this.hasRoom(readings.reduce((sum, { slots }) => sum + slots, 0), readings.length)) throw new Error("more than the ring holds")
    for (const fast of readings) {
      const sum = fast.data.reduce((bytes, [, length]) => bytes + length, 0)
      const inside = (address: number, length: number) => address >= START && length > 0 && address + length <= START + LENGTH
      const sound = fast.data.length > 0 && fast.data.length <= 256 && fast.data.every(([address, length]) => inside(address, length))
      const fits = fast.writableBefore === (fast.type === 0 ? sum : 0) && (fast.type === 0 || fast.type === 1)
      if (sum === fast.dataLength && sum % 512 === 0 && sound && inside(fast.status, 1) && fits) continue
      throw new Error(`RAM that changed: ${JSON.stringify(fast)}, ${sum} bytes in all`)
    }
  }

  #readRows(copies: number): Reading[] {
    const requests = this.#rows
    const taken = this.#way === "fast" ? this.takeFast(requests, this.#limits, copies) : this.#takeWalked(copies)
    if (taken !== requests.count) throw new Error(`${taken} chains taken, ${requests.count} requests`)
    const segments = new SegmentList()
    const all = Array.from({ length: taken }, (_, index) => {
      const request = new BlkRequest(segments)
      requests.copy(index, 0, request)
      return request
    })
    const bytes = all.reduce((sum, { dataLength }) => sum + dataLength, 0)
    if (taken > 0 && (requests.readBytes + requests.writeBytes !== bytes || requests.reads + requests.writes !== taken)) {
      throw new Error("counts of nobody")
    }
    return all.map((request) => this.#readingOf(request))
  }

  /** Returns how many chains have been taken; one that makes no row is apart from them. */
  #takeWalked(copies: number): number {
    let taken = 0
    const pop = (chain: DescriptorChain): boolean => {
      this.walk(chain)
      taken++
      return true
    }
    this.#rows.beginRows(this.#region, 0)
    this.#walked.take(this.#rows, { size: copies, pop, addUsedRows() {} }, this.#limits, copies)
    this.beginAgain()
    return this.#rows.count === taken || this.#rows.isWhole ? taken : taken - 1
  }

  #readGenerally(): Reading | undefined {
    return this.#reading((chain) => this.walk(chain))
  }

  /** What `WalkedRequests` has left to the general way. */
  #readLeft(): Reading | undefined {
    return this.#reading((chain) => this.#walked.takeLeft(chain))
  }

  /** What becomes of the chain that `take` takes; undefined if it is broken. */
  #reading(take: (chain: DescriptorChain) => void): Reading | undefined {
    const request = new BlkRequest(new SegmentList())
    const chain = new DescriptorChain(new SegmentList())
    try {
      take(chain)
      parseRequest(request, chain, false)
      request.outcome = refusalOf(request, this.#limits, NOTHING)
    } catch (error) {
      if (error instanceof VirtqueueError) return undefined
      throw error
    }
    return this.#readingOf(request)
  }

  #readingOf(request: BlkRequest): Reading {
    const { head, type, sector, dataLength, writableBefore, outcome, done } = request
    if (done !== 0) throw new Error(`done ${done}`)
    const data: (readonly [number, number])[] = []
    for (let at = 0; at < request.count; at++) {
      const last = data.at(-1)
      const [address, length] = [request.address(at), request.length(at)]
      if (last !== undefined && last[0] + last[1] === address) data[data.length - 1] = [last[0], last[1] + length]
      else data.push([address, length])
    }
    const status = request.statusRegion.start + request.statusOffset
    return { outcome, head, slots: this.slotsOf(request), type, sector, dataLength, data, status, writableBefore }
  }

  /** A request that a driver could make, in other random bytes. */
  #chain(): Piece[] {
    const { rng, data } = this
    this.#ram.set(rng.bytes(64), rng.below(LENGTH - 64))
    const isIn = rng.chance(0.5)
    const pieces: Piece[] = []
    for (let count = rng.chance(0.01) ? rng.pick([62, 255, 256, 257]) : rng.pick([1, 1, 1, 2, 5]); count > 0; count--) {
      const last = pieces.at(-1)
      // Some touch the one before, some cover it, or lie in front of it.
      const address = last !== undefined && rng.chance(0.4) ? last.address + last.length : START + 0x1000 + rng.below(0x2000)
      const length = pieces.length > 5 ? 512 : rng.pick([512, 1024, 512, 2048, 4096, rng.pick([1, 256, 512])])
      pieces.push({ address: Math.min(address, START + LENGTH - length), length, flags: isIn ? WRITE : 0 })
    }
    const header = START + 0xc00 + rng.below(0x100)
    data.setUint32(header - START, isIn ? 0 : 1, true)
    data.setUint32(header - START + 8, rng.pick([0, 1, rng.below(16), 2 ** 31 - 4, 2 ** 32 - 2, rng.u32()]), true)
    data.setUint32(header - START + 12, rng.chance(0.9) ? 0 : rng.u32(), true)
    const status = { address: START + 0xe00 + rng.below(16), length: 1, flags: WRITE }
    return this.#reshape([{ address: header, length: 16, flags: 0 }, ...pieces, status])
  }

  /** The same request, mostly, with its bytes in other buffers: of no bytes, in parts, or with two things in one. */
  #reshape(chain: readonly Piece[]): Piece[] {
    const { rng } = this
    if (rng.chance(this.#way === "fast" ? 0.9 : 0.3)) return [...chain]
    const at = rng.below(chain.length)
    return chain.flatMap((piece, index) => {
      if (index !== at) return [piece]
      const { address, length, flags } = piece
      const cut = rng.below(length + 1)
      return rng.pick<Piece[]>([
        [{ address, length: cut, flags }, { address: address + cut, length: length - cut, flags }],
        [{ address, length: length + rng.pick([1, 512, 1024]), flags }],
        [{ address, length: 0, flags }, piece],
        [{ address, length, flags: flags | 8 }],
        index > 0 ? [] : [piece],
      ])
    })
  }

  /** Changes one field of one descriptor, or a word of a header. */
  #mutate(): void {
    const { rng, data } = this
    const at = this.pickDescriptor()
    const lengths = [
      0, 1, 2, 15, 16, 17, 32, 48, 49, 56, 65, 512, 0xffff_ffff, 0xffff_fff0, 0x8000_0000, 0x4000_0000, LENGTH, LENGTH - 1,
      rng.below(LENGTH),
    ]
    const addresses = [
      START - 1, START, START + LENGTH - 1, START + LENGTH, 0, 0xffff_ffff, 2 * START, 2 * START + 0xfff, START + rng.below(LENGTH),
      START + INDIRECT_TABLE,
    ]
    rng.pick([
      () => data.setUint32(at, rng.pick(addresses), true),
      () => data.setUint32(at + 4, rng.pick([1, 0x8000_0000, 0xffff_ffff]), true),
      () => data.setUint32(at + 8, rng.pick(lengths), true),
      ...this.changesOf(at),
      () => data.setUint32(0xc00 + 4 * rng.below(0x44), rng.pick([0, 1, 2, 4, 0x8000_0000, 0x8000_0001, rng.u32()]), true),
    ])()
  }

  /** Runs `act` with a DataView whose reads are followed, now and then, by a change of RAM. */
  #whileChanging<T>(act: () => T): T {
    const { rng } = this
    const { getUint16, getUint32 } = DataView.prototype
    let left = rng.below(40)
    this.isChanging = true
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
      this.isChanging = false
    }
  }
}

function checkSame(row: Reading | undefined, general: Reading | undefined): void {
  const [here, there] = [row, general].map((reading) => (reading === undefined ? "broken" : JSON.stringify(reading)))
  if (here !== there) throw new Error(`as a row, or left: ${here}; generally: ${there}`)
}
