/** A seeded generator of pseudo-random numbers: the same seed gives the same run on every machine. */

export class Rng {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** 32 random bits, as an unsigned number (mulberry32). */
  u32(): number {
    this.#state = (this.#state + 0x6d2b_79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }

  /** An integer from 0 to `limit - 1`; `limit` may exceed 2^32. */
  below(limit: number): number {
    return Math.floor(((this.u32() * 0x20_0000 + (this.u32() >>> 11)) / 0x20_0000_0000_0000) * limit)
  }

  /** An integer from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1)
  }

  /** True with a probability of `probability`. */
  chance(probability: number): boolean {
    return this.u32() < probability * 2 ** 32
  }

  pick<T>(choices: readonly T[]): T {
    const choice = choices[this.below(choices.length)]
    if (choice === undefined) throw new Error("nothing to pick from")
    return choice
  }

  /** Mixes `items` in place (Fisher-Yates). */
  shuffle<T>(items: T[]): T[] {
    for (let last = items.length - 1; last > 0; last--) {
      const other = this.below(last + 1)
      const moved = items[last] as T
      items[last] = items[other] as T
      items[other] = moved
    }
    return items
  }

  /** `length` bytes, none of them zero, so that data never looks like a hole. */
  bytes(length: number): Uint8Array {
    const data = new Uint8Array(length)
    // A random first byte and a stride make neighbouring sectors differ. A call for each byte would be slow.
    let value = this.u32()
    for (let at = 0; at < length; at++) {
      value = (Math.imul(value, 1103515245) + 12345) >>> 0
      data[at] = (value >>> 16) | 1
    }
    return data
  }
}

/** The seed for this run: SEED of the environment if it is set, `fallback` otherwise. */
export function seedFromEnvironment(fallback: number): number {
  const given = Number(process.env["SEED"])
  return Number.isSafeInteger(given) && given > 0 ? given >>> 0 : fallback
}
