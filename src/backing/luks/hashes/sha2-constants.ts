/** The constants of the SHA-2 family: the first 64 fractional bits of roots of primes. FIPS 180-4, 4.2 and 5.3 */

const PLACES = 64n

/** Two words for each prime's root of this degree, the high one first. */
export function rootWords(primes: readonly number[], degree: 2 | 3): Int32Array {
  return Int32Array.from(primes.flatMap((prime) => {
    const root = integerRoot(BigInt(prime) << (BigInt(degree) * PLACES), BigInt(degree))
    return [Number((root >> 32n) & 0xffff_ffffn), Number(root & 0xffff_ffffn)]
  }))
}

/** The words 0, 2, 4 and so on, or 1, 3, 5 and so on. */
export function everySecond(words: Int32Array, from: 0 | 1): Int32Array {
  return Int32Array.from({ length: words.length / 2 }, (_, index) => words[2 * index + from] ?? 0)
}

export function firstPrimes(count: number): readonly number[] {
  const primes: number[] = []
  for (let number = 2; primes.length < count; number++) if (primes.every((prime) => number % prime !== 0)) primes.push(number)
  return primes
}

/** The integer part of the root of this degree of `value`, by Newton's method from above. */
function integerRoot(value: bigint, degree: bigint): bigint {
  for (let root = 1n << 70n; ;) {
    const next = ((degree - 1n) * root + value / root ** (degree - 1n)) / degree
    if (next >= root) return root
    root = next
  }
}
