/** Chains of a packed ring, read fast and generally: see usual-fuzzer.ts. */
import type { BlkRequest, RequestLimits } from "../../../src/virtio/blk/request.ts"
import { takePacked } from "../../../src/virtio/blk/usual/packed-request.ts"
import type { UsualRequests } from "../../../src/virtio/blk/usual/requests.ts"
import type { DescriptorChain } from "../../../src/virtio/queue/descriptor-chain.ts"
import { PackedDescriptors } from "../../../src/virtio/queue/packed-descriptors.ts"
import type { PackedChains } from "../../../src/virtio/queue/ring.ts"
import { VirtqueueError } from "../../../src/virtio/queue/virtqueue-error.ts"
import type { Rng } from "../../support/rng.ts"
import { INDIRECT, INDIRECT_TABLE, LENGTH, NEXT, type Piece, START, TABLE, UsualFuzzer, WRITE } from "./usual-fuzzer.ts"

/** Not a power of two. */
const SIZE = 11
const [AVAIL, USED] = [0x80, 0x8000] as const

export class PackedUsualFuzzer extends UsualFuzzer {
  #ring: PackedDescriptors
  /** Where its first chain begins. */
  #start: { readonly slot: number; readonly marks: number }
  /** Descriptors of the chains that have been walked. */
  #generalSlots = 0

  constructor(rng: Rng, way: "fast" | "walked") {
    super(rng, way)
    this.#ring = this.#newRing()
    this.#start = this.#ring
  }

  #newRing(): PackedDescriptors {
    const { rng } = this
    const ring = new PackedDescriptors(this.memory, {
      size: SIZE, indirect: rng.chance(0.9), slot: rng.below(SIZE), wrap: rng.chance(0.5),
    })
    ring.place(START + TABLE)
    ring.room = SIZE
    return ring
  }

  protected override layOut(chain: readonly Piece[], { copies }: { readonly copies: number }): void {
    const { rng } = this
    this.#ring = this.#newRing()
    this.#start = { slot: this.#ring.slot, marks: this.#ring.marks }
    this.#generalSlots = 0
    const isIndirect = chain.length > SIZE || rng.chance(0.5)
    // Some tables end where RAM ends, or say that they go beyond.
    const table = rng.chance(0.9) ? INDIRECT_TABLE : LENGTH - 16 * chain.length
    const entries = chain.length + (rng.chance(0.02) ? 1 : 0)
    for (const [at, one] of isIndirect ? chain.entries() : []) this.#describe(table + 16 * at, one)
    // What lies behind the table looks as if it belonged to it.
    const behind = { address: START + 0xe20, length: 1, flags: WRITE }
    if (isIndirect && table === INDIRECT_TABLE) this.#describe(table + 16 * chain.length, behind)
    const inRing: Piece[] = isIndirect
      ? [{ address: START + table, length: 16 * entries, flags: INDIRECT | (rng.chance(0.2) ? WRITE : 0) }]
      : chain.map((one, at) => ({ ...one, flags: one.flags | (at === chain.length - 1 ? 0 : NEXT) }))
    let { slot, marks } = this.#ring
    for (let copy = 0; copy < copies && inRing.length * (copy + 1) <= SIZE; copy++) [slot, marks] = this.#putInRing(inRing, slot, marks)
  }

  protected override takeFast(requests: UsualRequests, limits: RequestLimits, most: number): number {
    const ring = this.#ring
    const { slot, marks } = this.#start
    const rows = { size: SIZE, descriptors: ring, availPlace: 0, orderAhead: () => 1 }
    this.takeFrom(rows, requests, limits, most)
    const passed = ring.slot - slot + (ring.marks === marks ? 0 : SIZE)
    if (passed !== rows.availPlace) throw new Error("the next chain does not begin there")
    this.beginAgain()
    return requests.count
  }

  /** Takes chains of `ring`, `most` at most, into `requests`. */
  protected takeFrom(ring: PackedChains, requests: UsualRequests, limits: RequestLimits, most: number): void {
    takePacked(requests, ring, limits, most)
  }

  protected override beginAgain(): void {
    this.#generalSlots = 0
    this.#ring.slot = this.#start.slot
    this.#ring.marks = this.#start.marks
  }

  protected override walk(chain: DescriptorChain): void {
    this.#ring.room = SIZE - this.#generalSlots
    if (this.#ring.room === 0) throw new VirtqueueError("no room")
    this.#ring.walk(chain)
    this.#ring.skip(chain.slots)
    this.#generalSlots += chain.slots
  }

  protected override slotsOf({ slots }: BlkRequest): number {
    return slots
  }

  protected override hasRoom(slots: number, chains: number): boolean {
    return slots >= chains && slots <= SIZE
  }

  protected override pickDescriptor(): number {
    const { rng } = this
    return rng.chance(0.5) ? TABLE + 16 * ((this.#ring.slot + rng.below(8)) % SIZE) : INDIRECT_TABLE + 16 * rng.below(8)
  }

  protected override changesOf(at: number): readonly (() => void)[] {
    const { rng, data } = this
    const flips = [1, 2, 3, 4, 5, 8, 0x80, 0x8000, 0x8080, 0x100, 0xffff]
    return [
      () => data.setUint16(at + 12, rng.below(0x1_0000), true),
      () => data.setUint16(at + 14, data.getUint16(at + 14, true) ^ rng.pick(flips), true),
    ]
  }

  /** Returns where the next chain begins, and the marks of an available descriptor there. */
  #putInRing(chain: readonly Piece[], slot: number, marks: number): readonly [slot: number, marks: number] {
    for (const one of chain) {
      this.#describe(TABLE + 16 * slot, { ...one, flags: one.flags | marks })
      if (++slot < SIZE) continue
      slot = 0
      marks ^= AVAIL | USED
    }
    return [slot, marks]
  }

  #describe(at: number, one: Piece): void {
    this.data.setBigUint64(at, BigInt(one.address), true)
    this.data.setUint32(at + 8, one.length, true)
    this.data.setUint16(at + 12, this.rng.below(0x1_0000), true)
    this.data.setUint16(at + 14, one.flags, true)
  }
}
