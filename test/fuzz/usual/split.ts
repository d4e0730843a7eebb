/** Chains of a split ring, read fast and generally: see usual-fuzzer.ts. */
import type { RequestLimits } from "../../../src/virtio/blk/request.ts"
import type { UsualRequests } from "../../../src/virtio/blk/usual/requests.ts"
import { takeSplit } from "../../../src/virtio/blk/usual/split-request.ts"
import type { DescriptorChain } from "../../../src/virtio/queue/descriptor-chain.ts"
import { DescriptorTable } from "../../../src/virtio/queue/descriptor-table.ts"
import type { SplitChains } from "../../../src/virtio/queue/ring.ts"
import type { Rng } from "../../support/rng.ts"
import { INDIRECT, INDIRECT_TABLE, NEXT, type Piece, START, TABLE, UsualFuzzer, WRITE } from "./usual-fuzzer.ts"

const SIZE = 16

export class SplitUsualFuzzer extends UsualFuzzer {
  readonly #table: DescriptorTable
  #head = 0

  constructor(rng: Rng, way: "fast" | "walked") {
    super(rng, way)
    this.#table = new DescriptorTable(this.memory, SIZE, true)
    this.#table.place(START + TABLE)
  }

  /** The copies are one chain, made available several times. */
  protected override layOut(chain: readonly Piece[], { changes }: { readonly changes: boolean }): void {
    const { rng } = this
    this.#table.indirect = changes || rng.chance(0.9)
    const indirect = chain.length > SIZE || rng.chance(0.5)
    const order = indirect ? chain.map((_, at) => at) : this.#shuffled(chain.length)
    const base = indirect ? INDIRECT_TABLE : TABLE
    for (const [at, { address, length, flags }] of chain.entries()) {
      const next = order[at + 1]
      this.#describe(base, order[at] ?? 0, { address, length, flags: flags | (next === undefined ? 0 : NEXT), next: next ?? rng.below(20) })
    }
    // What lies behind the table looks as if it belonged to it.
    const trap = { address: START + 0xe20, length: 1, flags: WRITE, next: 0 }
    this.#describe(base, indirect ? chain.length : SIZE, trap)
    if (rng.chance(0.1)) this.data.setUint16(base + 16 * (order[chain.length - 2] ?? 0) + 14, indirect ? chain.length : SIZE, true)
    this.#head = indirect ? rng.below(SIZE + 1) : order[0] ?? 0
    if (!indirect) return
    this.#describe(TABLE, this.#head, { address: START + INDIRECT_TABLE, length: 16 * chain.length, flags: INDIRECT, next: 0 })
  }

  protected override takeFast(requests: UsualRequests, limits: RequestLimits, most: number): number {
    const avail = new DataView(new ArrayBuffer(4 + 2 * SIZE))
    const lastAvail = this.rng.pick([0, 5, SIZE - 1, 0xffff])
    for (let slot = 0; slot < SIZE; slot++) avail.setUint16(4 + 2 * slot, this.#head, true)
    const availIdx = (lastAvail + most) & 0xffff
    const ring = { size: SIZE, table: this.#table, avail, availIdx, lastAvail, inFlight: 0 }
    this.takeFrom(ring, requests, limits, most)
    if (ring.inFlight !== (ring.lastAvail - lastAvail & 0xffff)) throw new Error("chains in flight that nobody has taken")
    return ring.inFlight
  }

  /** Takes chains of `ring`, `most` at most, into `requests`. */
  protected takeFrom(ring: SplitChains, requests: UsualRequests, limits: RequestLimits, most: number): void {
    takeSplit(requests, ring, limits, most)
  }

  protected override walk(chain: DescriptorChain): void {
    this.#table.walk(chain, this.#head)
  }

  protected override beginAgain(): void {}

  protected override slotsOf(): number {
    return 0
  }

  protected override hasRoom(): boolean {
    return true
  }

  protected override pickDescriptor(): number {
    const { rng } = this
    return rng.pick([TABLE, INDIRECT_TABLE]) + 16 * rng.below(rng.pick([8, SIZE]))
  }

  protected override changesOf(at: number): readonly (() => void)[] {
    const { rng, data } = this
    return [
      () => data.setUint16(at + 12, rng.pick([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xffff, 0x8001]), true),
      () => data.setUint16(at + 14, rng.pick([0, 1, 2, 15, 16, 17, 0x8000, 0xffff, rng.below(20)]), true),
    ]
  }

  #shuffled(count: number): number[] {
    const all = Array.from({ length: SIZE }, (_, index) => index)
    return Array.from({ length: count }, () => all.splice(this.rng.below(all.length), 1)[0] ?? 0)
  }

  #describe(table: number, index: number, one: Piece & { readonly next: number }): void {
    const at = table + 16 * index
    this.data.setBigUint64(at, BigInt(one.address), true)
    this.data.setUint32(at + 8, one.length, true)
    this.data.setUint16(at + 12, one.flags, true)
    this.data.setUint16(at + 14, one.next, true)
  }
}
