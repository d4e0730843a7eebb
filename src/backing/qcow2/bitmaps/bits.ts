/** Runs of bits in bytes. Bit n is bit n mod 8, from the least significant one, of byte n / 8 (QC-BMP-08). */

/** Sets bits `from` up to but not including `to`. */
export function setBits(bytes: Uint8Array, from: number, to: number): void {
  let bit = from
  for (; bit < to && (bit & 7) !== 0; bit++) bytes[bit >>> 3] = (bytes[bit >>> 3] ?? 0) | (1 << (bit & 7))
  const whole = to - ((to - bit) & 7)
  if (whole > bit) bytes.fill(0xff, bit >>> 3, whole >>> 3)
  for (bit = Math.max(bit, whole); bit < to; bit++) bytes[bit >>> 3] = (bytes[bit >>> 3] ?? 0) | (1 << (bit & 7))
}

/** Clears bit `from`, which exists, and all later bits. */
export function clearFrom(bytes: Uint8Array, from: number): void {
  const at = from >>> 3
  bytes[at] = (bytes[at] ?? 0) & ((1 << (from & 7)) - 1)
  bytes.fill(0, at + 1)
}

/** The first bit from `from` on that equals `wanted`, or the number of bits if there is none. */
export function findBit(bytes: Uint8Array, from: number, wanted: 0 | 1): number {
  const skipped = wanted === 1 ? 0 : 0xff
  const end = bytes.length * 8
  let bit = from
  while (bit < end) {
    const byte = bytes[bit >>> 3] ?? 0
    if ((bit & 7) === 0 && byte === skipped) bit += 8
    else if (((byte >>> (bit & 7)) & 1) === wanted) return bit
    else bit++
  }
  return end
}
