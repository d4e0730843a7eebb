/** SavedChains: chains of a packed ring that were in flight when its state was saved, to be taken again. */
import type { SavedChain } from "../state.ts"
import type { Displaced } from "./displaced.ts"
import type { Changeable, TakenChain } from "./ring.ts"

export class SavedChains {
  readonly #chains: readonly SavedChain[]
  /** How many chains, from the first on, have been taken again. */
  #taken = 0
  /** Descriptors of the chains that are left to take. */
  slots = 0

  constructor(chains: readonly SavedChain[]) {
    this.#chains = chains
    this.slots = chains.reduce((sum, { descriptors }) => sum + descriptors.length / 4, 0)
  }

  get left(): readonly SavedChain[] {
    return this.#chains.slice(this.#taken)
  }

  get isEmpty(): boolean {
    return this.#taken === this.#chains.length
  }

  /** The descriptors of the next one, as four 32-bit words each. */
  get next(): readonly number[] {
    return this.#next.descriptors
  }

  /** Takes the next chain as `chain`. The chains that are left, this one included, come directly before `place` in the ring. */
  pass(chain: Changeable<TakenChain>, place: number, displaced: Displaced): void {
    const { id, descriptors } = this.#next
    chain.head = id
    chain.place = place - this.slots
    this.slots -= chain.slots
    for (let index = 0; index < chain.slots; index++) displaced.keep(chain.place + index, descriptors.slice(4 * index, 4 * index + 4))
    this.#taken++
  }

  get #next(): SavedChain {
    const next = this.#chains[this.#taken]
    if (next === undefined) throw new Error("no chains are left to take again")
    return next
  }
}
