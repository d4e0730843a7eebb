/** Finds words of 64 bits, each two halves of 32, that are not zero. Byte order does not matter for that. */

/** Halves to test together. */
const STRIDE = 8

/** The first nonzero word from `from` on, as the index of its upper half; `end` if there is none. Most words of a sparse disk are zero. */
export function nextNonZero(halves: Int32Array, from: number, end: number): number {
  let at = from
  for (const last = end - STRIDE; at <= last; at += STRIDE) {
    const first = (halves[at] ?? 0) | (halves[at + 1] ?? 0) | (halves[at + 2] ?? 0) | (halves[at + 3] ?? 0)
    if ((first | (halves[at + 4] ?? 0) | (halves[at + 5] ?? 0) | (halves[at + 6] ?? 0) | (halves[at + 7] ?? 0)) !== 0) break
  }
  while (at < end && ((halves[at] ?? 0) | (halves[at + 1] ?? 0)) === 0) at += 2
  return at
}
