/**
 * Shared RAM on a processor that does plain loads in any order: whatever is not ordered may be as old as it likes. A machine with such
 * loads is played here, for those that run the tests have none: requests of a batch are new throughout all the same.
 */
import { afterEach, expect, it, vi } from "vitest"
import { takePacked } from "../../../src/virtio/blk/usual/packed-request.ts"
import { LENGTH, OFFSET, SECTOR, STATUS } from "../../../src/virtio/blk/usual/columns.ts"
import { UsualRequests } from "../../../src/virtio/blk/usual/requests.ts"
import { type GuestMemory, RamRegion } from "../../../src/virtio/guest-memory.ts"
import { ROW, SLOTS } from "../../../src/virtio/queue/chain-rows.ts"
import { PackedQueue } from "../../../src/virtio/queue/packed-queue.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const [SIZE, DESC, DRIVER, DEVICE, HEADERS, STATUSES, TABLES, DATA] = [64, 0x1000, 0x2000, 0x2100, 0x3000, 0x3800, 0x4000, 0x8000] as const
const [NEXT, WRITE, INDIRECT] = [1, 2, 4] as const
const RAM = 0x1_0000

/** What a chain was before the driver made it available: an older request, whose flags are those of a used descriptor. */
type Age = "new" | "old"

class Chains {
  readonly ram = { new: new DataView(new SharedArrayBuffer(RAM)), old: new DataView(new ArrayBuffer(RAM)) }
  readonly queue: PackedQueue
  /** Which chain a byte belongs to, from 1 on; 0 where it does not change. */
  readonly owners = new Uint8Array(RAM)
  /** Which chain the flags at an address are the first of. */
  readonly heads = new Map<number, number>()
  /** The chain whose flags the driver has stored last when it made this one available: with them all before it are there. */
  readonly leaders: number[] = []
  readonly slots: number[] = []

  constructor(rng: Rng) {
    const [start, wrap] = [rng.below(SIZE), rng.chance(0.5)]
    const features = { indirect: true, eventIdx: rng.chance(0.5), notifyOnEmpty: false, packed: true, inOrder: false }
    const areas = { size: SIZE, descriptorTable: DESC, availRing: DRIVER, usedRing: DEVICE }
    const saved = { position: start + (wrap ? 0x8000 : 0), heads: [], chains: [] }
    this.queue = new PackedQueue(memoryOf(this.ram.new.buffer, { withDevice: rng.chance(0.7) }), areas, features, saved)
    this.queue.initialiseFlags()
    this.queue.descriptors.usualSlots = rng.pick([1, 3, 3, 4])
    const isRegular = rng.chance(0.5)
    const shape = rng.pick([1, 3, 4])
    let [slot, marks] = [start, wrap ? 0x80 : 0x8000]
    for (let chain = 0; chain < 12; chain++) {
      const slots = isRegular ? shape : rng.pick([1, 3, 4])
      this.slots.push(slots)
      this.leaders.push(chain > 0 && rng.chance(0.4) ? this.leaders[chain - 1] ?? 0 : chain)
      const table = slots === 1 ? TABLES + 64 * chain : undefined
      this.heads.set(DESC + 16 * slot + 14, chain)
      if (table !== undefined) this.#describe(chain, DESC + 16 * slot, table, 48, INDIRECT, marks)
      const pieces = Math.max(slots, 3)
      for (let piece = 0; piece < pieces; piece++) {
        const at = table === undefined ? DESC + 16 * slot : table + 16 * piece
        const [address, length, flags] = this.#piece(chain, piece, pieces)
        this.#describe(chain, at, address, length, flags, table === undefined ? marks : 0)
        if (table !== undefined) continue
        slot++
        if (slot === SIZE) [slot, marks] = [0, marks ^ 0x8080]
      }
      if (table !== undefined && ++slot === SIZE) [slot, marks] = [0, marks ^ 0x8080]
      this.#put(chain, HEADERS + 16 * chain + 8, (age) => (age === "new" ? 2 * chain : 500 + chain))
    }
  }

  #piece(chain: number, piece: number, pieces: number): readonly [address: number, length: number, flags: number] {
    if (piece === 0) return [HEADERS + 16 * chain, 16, NEXT]
    if (piece === pieces - 1) return [STATUSES + chain, 1, WRITE]
    return [DATA + 1024 * chain + 512 * (piece - 1), 512, NEXT | WRITE]
  }

  /** Its older self has its buffer elsewhere. */
  #describe(chain: number, at: number, address: number, length: number, flags: number, marks: number): void {
    this.#put(chain, at, (age) => (age === "new" || address < DATA ? address : address + 0x4000))
    this.#put(chain, at + 4, () => 0)
    this.#put(chain, at + 8, () => length)
    this.#put(chain, at + 12, (age) => chain | (flags | (age === "new" ? marks : marks === 0x80 ? 0 : 0x8080)) << 16)
  }

  #put(chain: number, at: number, value: (age: Age) => number): void {
    for (const age of ["new", "old"] as const) this.ram[age].setUint32(at, value(age), true)
    this.owners.fill(chain + 1, at, at + 4)
  }
}

/** Shared RAM. `withDevice`: the device event suppression is in it, too, and not in a region of its own. */
function memoryOf(ram: ArrayBufferLike, { withDevice }: { readonly withDevice: boolean }): GuestMemory {
  const shared = new RamRegion(0, new Uint8Array(ram))
  const own = new RamRegion(DEVICE, new Uint8Array(4))
  return { generation: 0, region: (address) => (withDevice || address < own.start || address >= own.end ? shared : own) }
}

/** Loads as a processor may do them. */
class Loads {
  /** Chains before it are new for sure. */
  #floor = 0
  /** Chains that a load has seen in front of now, in front of the last store by Atomics, and in front of a load by Atomics after that. */
  #seen = 0
  #stored = 0
  readonly #chains: Chains
  readonly #rng: Rng
  readonly #newOnes = new Set<number>()

  constructor(chains: Chains, rng: Rng) {
    this.#chains = chains
    this.#rng = rng
  }

  play(): void {
    const loads = this
    const { getUint16, getUint32 } = DataView.prototype
    const { load, store } = Atomics
    const { ram } = this.#chains
    const choose = (view: DataView, at: number): readonly [DataView, number] =>
      view.buffer === ram.new.buffer ? [loads.#isNew(view.byteOffset + at) ? ram.new : ram.old, view.byteOffset + at] : [view, at]
    vi.spyOn(DataView.prototype, "getUint16").mockImplementation(function (this: DataView, at, little) {
      const [view, place] = choose(this, at)
      return getUint16.call(view, place, little)
    })
    vi.spyOn(DataView.prototype, "getUint32").mockImplementation(function (this: DataView, at, little) {
      const [view, place] = choose(this, at)
      return getUint32.call(view, place, little)
    })
    vi.spyOn(Atomics, "load").mockImplementation(((words: Uint16Array, index: number) => {
      const at = words.byteOffset + 2 * index
      const before = loads.#seen
      loads.#seen = 0
      const isNew = loads.#isNew(at)
      // What this load has seen is ordered, and what was seen in front of a store.
      loads.#floor = Math.max(loads.#floor, loads.#seen, loads.#stored)
      loads.#seen = Math.max(loads.#seen, before)
      return isNew ? load(words, index) : getUint16.call(ram.old, at, true)
    }) as typeof Atomics.load)
    vi.spyOn(Atomics, "store").mockImplementation(((words: Uint16Array, index: number, value: number) => {
      loads.#stored = Math.max(loads.#stored, loads.#seen)
      return store(words, index, value)
    }) as typeof Atomics.store)
  }

  #isNew(at: number): boolean {
    const chain = (this.#chains.owners[at] ?? 0) - 1
    if (chain < this.#floor || this.#newOnes.has(at)) return this.#notice(at)
    if (this.#rng.chance(0.3)) return false
    this.#newOnes.add(at)
    return this.#notice(at)
  }

  /** The flags that were stored last say that all chains up to the next such are there. */
  #notice(at: number): true {
    const { heads, leaders } = this.#chains
    const chain = heads.get(at)
    if (chain === undefined || leaders[chain] !== chain) return true
    const next = leaders.findIndex((leader, other) => other > chain && leader === other)
    this.#seen = Math.max(this.#seen, next < 0 ? leaders.length : next)
    return true
  }
}

afterEach(() => {
  vi.restoreAllMocks()
})

it("VQ-31 PK-05 every read of a chain of a packed ring in shared RAM comes after the read of its flags", () => {
  const rng = new Rng(seedFromEnvironment(20261201))
  let taken = 0
  for (let round = 0; round < 600; round++) {
    const chains = new Chains(rng)
    const { queue, slots } = chains
    const requests = new UsualRequests()
    new Loads(chains, rng).play()
    // The same ring is taken from several times, as its device does when more come in.
    for (let first = 0, turns = 3; turns > 0; turns--, first += requests.count) {
      if (!queue.look()) break
      takePacked(requests, queue, { capacity: 2 ** 20, readOnly: false }, rng.pick([1, 2, 64, 64]))
      const rows = Array.from({ length: requests.count }, (_, at) => rowOf(requests, at))
      const expected = rows.map((_, at) => expectedRow(first + at, slots[first + at] ?? 0))
      expect(rows).toEqual(expected)
      taken += requests.count
    }
    vi.restoreAllMocks()
  }
  expect(taken).toBeGreaterThan(1500)
})

function rowOf({ rows }: UsualRequests, index: number): readonly (number | undefined)[] {
  return [SECTOR, OFFSET, LENGTH, STATUS, SLOTS].map((column) => rows[ROW * index + column])
}

function expectedRow(chain: number, slots: number): readonly number[] {
  return [2 * chain, DATA + 1024 * chain, slots === 4 ? 1024 : 512, STATUSES + chain, slots]
}
