/**
 * InOrderRing: a ring of either format whose driver has accepted IN_ORDER ([VIRTIO] 2.7.9, 2.8.9): chains go back in the order in which
 * they were made available, however the disk answers. Each gets a used element of its own. Drivers without IN_ORDER pay nothing for it.
 */
import type { SavedRing } from "../state.ts"
import type { DescriptorChain } from "./descriptor-chain.ts"
import type { Changeable, PackedRows, Ring, RingFeatures, SplitRows, TakenChain } from "./ring.ts"

/** A chain that is done with, and waits for those that were taken before it. */
interface HeldChain extends TakenChain {
  readonly length: number
}

/** Entries of `#order` that may lie behind before they are removed. */
const MOST_BEHIND = 1024

export class InOrderRing implements Ring {
  readonly #ring: Ring
  readonly #isPacked: boolean
  /** What tells the chains in flight from each other, in the order in which they were taken, from `#first` on: their `place`. */
  #order: number[] = []
  #first = 0
  readonly #held = new Map<number, HeldChain>()
  /** Chains taken from a split ring, which leaves `place` alone. */
  #taken = 0
  /** See `SavedRing.held`: lengths by the index of their chain, and how many of the saved chains have been taken again. */
  readonly #savedHeld: ReadonlyMap<number, number>
  #takenAgain = 0

  /** `held`: those of a saved ring. */
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

  /** Rows are given back all at once, and in their order: while no other chain is in flight that is the order of all. */
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

  /** Those that are done with and wait are in flight for the driver, and are not to be done again: a zone would be appended to twice. */
  save(inFlight: readonly TakenChain[]): SavedRing {
    const byPlace = new Map(inFlight.map((chain) => [chain.place, chain]))
    // While all that are in flight are rows, they have their order.
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
   * Gives back the next saved chains that are done with. Nobody reads their descriptors: a saved state may have 32768 chains of as many.
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
      // The object is its owner's, who fills it anew.
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

  /** None is in flight, those that are rows apart. */
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
