/**
 * Displaced: descriptors of chains in flight that are not in a packed ring any more. A chain that is given back out of order has its used
 * descriptor written in front of others that are still in flight, and the driver may use those slots again. Nobody needs what was there,
 * until the state is saved.
 *
 * A place counts descriptors of the ring since it was opened: place p is in slot p modulo the size.
 */
import type { TakenChain } from "./ring.ts"

export class Displaced {
  /** Four 32-bit words of each displaced descriptor, by its place. */
  readonly #words = new Map<number, readonly number[]>()
  /** Places that the used descriptors have not reached, and whose chain has been given back. */
  readonly #givenBack = new Set<number>()

  /** The descriptor at `place` if it is displaced. */
  at(place: number): readonly number[] | undefined {
    return this.#words.get(place)
  }

  /** Keeps a displaced descriptor of a saved ring. */
  keep(place: number, words: readonly number[]): void {
    this.#words.set(place, words)
  }

  /** No chain in flight has descriptors in the `count` places from `place` on. */
  noneAt(place: number, count: number): void {
    for (let at = place; at < place + count; at++) this.#givenBack.add(at)
  }

  /**
   * `chain` is being given back, though its place is not `used`, the next used descriptor's. `read`: the descriptor in the ring at a place.
   */
  pass(chain: TakenChain, used: number, read: (place: number) => readonly number[]): void {
    for (let at = chain.place; at < chain.place + chain.slots; at++) {
      if (at < used) this.#words.delete(at)
      else this.#givenBack.add(at)
    }
    for (let at = used; at < used + chain.slots; at++) {
      if (!this.#givenBack.delete(at)) this.#words.set(at, read(at))
    }
  }
}
