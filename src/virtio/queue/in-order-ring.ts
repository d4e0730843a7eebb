/**
 * InOrderRing: a ring of either format whose driver has accepted IN_ORDER ([VIRTIO] 2.7.9, 2.8.9). Chains go back in the order in which
 * they were made available, in whatever order the disk answers. Each gets its own used element. Drivers without IN_ORDER pay nothing.
 */
import type { SavedRing } from "../state.ts"
import type { DescriptorChain } from "./descriptor-chain.ts"
import type { Changeable, PackedRows, Ring, RingFeatures, SplitRows, TakenChain } from "./ring.ts"

/** A finished chain that waits for chains taken before it. */
interface HeldChain extends TakenChain {
  readonly length: number
}

/** How many entries of `#order` before `#first` are kept until they are removed together. */
const MOST_BEHIND = 1024

export class InOrderRing implements Ring {
  readonly #ring: Ring
  readonly #isPacked: boolean
  /** From `#first` on: the `place` of each chain in flight, which identifies it, in the order in which they were taken. */
  #order: number[] = []
  #first = 0
  readonly #held = new Map<number, HeldChain>()
  /** Chains taken from a split ring. A split ring does not set `place`, so this count becomes the place. */
  #taken = 0
  /** See `SavedRing.held`: lengths by the index of their chain. `#takenAgain` counts the saved chains that have been taken again. */
  readonly #savedHeld: ReadonlyMap<number, number>
  #takenAgain = 0

  /** `held`: the finished chains of a saved ring. */
  constructor(ring: Ring, { packed }: RingFeatures, held: SavedRing["held"] = []) {
    this.#ring = ring
    this.#isPacked = packed
    this.#savedHeld = new Map(held)
  }

  get size(): number {
    return this.#ring.size
  }

  get generation(): number {
    return this.#ring.generation
  }

  get hasSaved(): boolean {
    return this.#ring.hasSaved
  }

  /** Rows are given back together and in order, which is the order of all chains if no other chain is in flight. */
  get splitRows(): SplitRows | undefined {
    return this.#isQuiet ? this.#ring.splitRows : undefined
  }

  get packedRows(): PackedRows | undefined {
    return this.#isQuiet ? this.#ring.packedRows : undefined
  }

  adopt(chain: TakenChain): void {
    this.#remember(chain)
  }

  set features(features: RingFeatures) {
    this.#ring.features = features
  }

  initialiseFlags(): void {
    this.#ring.initialiseFlags()
  }

  /** To the driver, finished chains that wait are in flight. They must not be done again: an append to a zone would happen twice. */
  save(inFlight: readonly TakenChain[]): SavedRing {
    const byPlace = new Map(inFlight.map((chain) => [chain.place, chain]))
    // If all chains in flight are rows, they are in order already.
    const chains: TakenChain[] = this.#isQuiet ? [...inFlight] : []
    const held: (readonly [index: number, length: number])[] = []
    for (const place of this.#order.slice(this.#first)) {
      const done = this.#held.get(place)
      const chain = done ?? byPlace.get(place)
      if (done !== undefined) held.push([chains.length, done.length])
      if (chain !== undefined) chains.push(chain)
    }
    for (const [index, length] of this.hasSaved ? this.#savedHeld : []) {
      if (index >= this.#takenAgain) held.push([chains.length + index - this.#takenAgain, length])
    }
    return { ...this.#ring.save(chains), ...(held.length > 0 && { held }) }
  }

  refresh(): void {
    this.#ring.refresh()
  }

  look(): boolean {
    return this.#ring.look()
  }

  pop(chain: DescriptorChain): boolean {
    this.#passHeld()
    const isSaved = this.#ring.hasSaved
    if (!this.#ring.pop(chain)) return false
    if (isSaved) this.#takenAgain++
    this.#remember(chain)
    return true
  }

  passSaved(chain: Changeable<TakenChain>): void {
    this.#takenAgain++
    this.#ring.passSaved(chain)
    this.#remember(chain)
  }

  /**
   * Gives back the next saved chains that are finished, without reading their descriptors: a saved state may have 32768 chains of 32768
   * descriptors each.
   */
  #passHeld(): void {
    while (this.#ring.hasSaved) {
      const length = this.#savedHeld.get(this.#takenAgain)
      if (length === undefined) return
      const chain = { head: 0, place: 0, slots: 0 }
      this.passSaved(chain)
      this.addUsed(chain, length)
    }
  }

  addUsed(chain: TakenChain, length: number): void {
    if (chain.place !== this.#order[this.#first]) {
      // A copy, because the owner of `chain` reuses the object.
      const { head, place, slots } = chain
      this.#held.set(place, { head, place, slots, length })
      return
    }
    this.#giveBack(chain, length)
    for (let next = this.#nextHeld(); next !== undefined; next = this.#nextHeld()) {
      this.#held.delete(next.place)
      this.#giveBack(next, next.length)
    }
    if (this.#first < MOST_BEHIND) return
    this.#order = this.#order.slice(this.#first)
    this.#first = 0
  }

  publish(): boolean {
    return this.#ring.publish()
  }

  enableKicks(): boolean {
    return this.#ring.enableKicks()
  }

  /** No chain is in flight, except for rows. */
  get #isQuiet(): boolean {
    return this.#first === this.#order.length
  }

  #remember(chain: TakenChain): void {
    if (!this.#isPacked) chain.place = this.#taken++
    this.#order.push(chain.place)
  }

  #nextHeld(): HeldChain | undefined {
    const place = this.#order[this.#first]
    return place === undefined ? undefined : this.#held.get(place)
  }

  #giveBack(chain: TakenChain, length: number): void {
    this.#first++
    this.#ring.addUsed(chain, length)
  }
}
