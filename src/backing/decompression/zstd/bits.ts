/**
 * Bit streams of zstd. Descriptions of tables are read forward, all other bits backward, from the end of a stream to its start. RFC 8878,
 * 4.1.
 */
import { DecompressionError } from "../decompression-error.ts"

/** Reads bits forward, the lowest bit of each byte first. Bits beyond `end` read as zeroes; `finish` refuses them. */
export class ForwardBits {
  readonly #data: Uint8Array
  readonly #end: number
  #byte: number
  /** 0 to 7. */
  #bit = 0

  /** Reads the bytes of `data` from `start` to `end`. */
  constructor(data: Uint8Array, start: number, end: number) {
    this.#data = data
    this.#byte = start
    this.#end = end
  }

  /** The next `count` bits, at most 16, which stay unread. */
  peek(count: number): number {
    const word = this.#byteAt(0) | (this.#byteAt(1) << 8) | (this.#byteAt(2) << 16)
    return (word >>> this.#bit) & ((1 << count) - 1)
  }

  skip(count: number): void {
    this.#bit += count
    this.#byte += this.#bit >>> 3
    this.#bit &= 7
  }

  read(count: number): number {
    const value = this.peek(count)
    this.skip(count)
    return value
  }

  /** The position of the first entirely unread byte. @throws DecompressionError when bits beyond the end were read */
  finish(): number {
    const next = this.#byte + (this.#bit > 0 ? 1 : 0)
    if (next > this.#end) throw new DecompressionError("the description of a zstd table ends too early")
    return next
  }

  #byteAt(distance: number): number {
    const at = this.#byte + distance
    return at < this.#end ? (this.#data[at] ?? 0) : 0
  }
}

/**
 * The first position of a backward stream in the bytes from `start` to `end`: the number of bits of `data` below its first bit. The highest
 * set bit of the last byte only marks the beginning. The stream ends at position `start * 8`.
 * @throws DecompressionError when there is no such mark
 */
export function startBackward(data: DataView, start: number, end: number): number {
  const last = end > start ? data.getUint8(end - 1) : 0
  if (last === 0) throw new DecompressionError("a zstd bit stream has no beginning")
  return end * 8 - 8 + (31 - Math.clz32(last))
}

/** Number of valid bits of `wordBelow`, from the top. */
export const MOST_BITS = 25

/**
 * The bits below bit `position` of `data`, at the top of a word of 32 bits. They come from the four bytes up to the one with the highest
 * bit, so bits below a stream's start are those of preceding bytes. V8 inlines this and `topBits` in hot loops.
 */
export function wordBelow(data: DataView, position: number): number {
  return data.getUint32(((position + 7) >> 3) - 4, true) << (-position & 7)
}

/** The `count` highest bits of `word`. */
export function topBits(word: number, count: number): number {
  // Two shifts, because a shift by 32 would shift by 0.
  return (word >>> 1) >>> (31 - count)
}

/** The `count` bits below bit `position` of `data`, at most `MOST_BITS`. */
export function peekBackward(data: DataView, position: number, count: number): number {
  return topBits(wordBelow(data, position), count)
}
