/**
 * Displaced: descriptors of chains in flight that a packed ring no longer holds. When a chain is given back out of order, its used
 * descriptor overwrites descriptors of a chain that is still in flight, and the driver may use those slots again. Only saving the state
 * needs the overwritten descriptors.
 *
 * A place numbers the ring's descriptors since the ring was opened: place p is in slot p modulo the size.
 */
import type { TakenChain } from "./ring.ts"

export class Displaced {
  /** Four 32-bit words of each displaced descriptor, by its place. */
  readonly #words = new Map<number, readonly number[]>()
  /** Places that used descriptors have not reached yet, although their chain has been given back. */
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
   * Call this when `chain` is given back out of order: the next used descriptor goes to place `used`. `read` returns the ring's descriptor
   * at a place.
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
