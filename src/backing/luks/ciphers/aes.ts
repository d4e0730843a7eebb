/**
 * AES for pages, whose platform has only an asynchronous one. Its steps are table lookups, whose time depends a little on key and data: an
 * attacker who measures the processor's cache closely may learn something about them. FIPS 197
 */
import type { BlockCipher } from "../cryptography.ts"
import { asWords } from "../words.ts"
import { rotate } from "./each-block.ts"

const BLOCK_WORDS = 4
/** x^8 + x^4 + x^3 + x + 1 */
const POLYNOMIAL = 0x11b

interface Tables {
  readonly box: Uint8Array
  readonly inverseBox: Uint8Array
  /** SubBytes and MixColumns of each row's bytes: tables of 256 words, one after the other. */
  readonly forward: Int32Array
  /** InvSubBytes and InvMixColumns. */
  readonly backward: Int32Array
}

/** Made with the first key. */
let made: Tables | undefined

export class Aes implements BlockCipher {
  readonly #tables: Tables
  /** Four words for each round, and four before the first one. */
  readonly #keys: Int32Array
  /** The keys of the equivalent inverse cipher, in the order of use. FIPS 197, 5.3.5 */
  readonly #inverseKeys: Int32Array

  /** `key`: 16, 24 or 32 bytes. */
  constructor(key: Uint8Array) {
    this.#tables = made ??= makeTables()
    this.#keys = expandKey(key, this.#tables.box)
    this.#inverseKeys = invertKeys(this.#keys, this.#tables)
  }

  encrypt(blocks: Uint8Array): Uint8Array {
    return transform(blocks, this.#keys, this.#tables.forward, this.#tables.box, 1)
  }

  decrypt(blocks: Uint8Array): Uint8Array {
    return transform(blocks, this.#inverseKeys, this.#tables.backward, this.#tables.inverseBox, 3)
  }
}

/**
 * Runs the rounds over each block. Both directions are the same for the columns of a block in another order: `second` is 1 to encrypt and 3
 * to decrypt, because InvShiftRows moves the rows the other way.
 */
function transform(blocks: Uint8Array, keys: Int32Array, t: Int32Array, box: Uint8Array, second: 1 | 3): Uint8Array {
  const from = asWords(blocks)
  const to = new Int32Array(from.length)
  const fourth = BLOCK_WORDS - second
  const last = keys.length - BLOCK_WORDS
  for (let at = 0; at < from.length; at += BLOCK_WORDS) {
    let a = (from[at] ?? 0) ^ (keys[0] ?? 0)
    let b = (from[at + second] ?? 0) ^ (keys[second] ?? 0)
    let c = (from[at + 2] ?? 0) ^ (keys[2] ?? 0)
    let d = (from[at + fourth] ?? 0) ^ (keys[fourth] ?? 0)
    for (let key = BLOCK_WORDS; key < last; key += BLOCK_WORDS) {
      const w = column(t, a, b, c, d) ^ (keys[key] ?? 0)
      const x = column(t, b, c, d, a) ^ (keys[key + second] ?? 0)
      const y = column(t, c, d, a, b) ^ (keys[key + 2] ?? 0)
      d = column(t, d, a, b, c) ^ (keys[key + fourth] ?? 0)
      a = w
      b = x
      c = y
    }
    to[at] = substituted(box, a, b, c, d) ^ (keys[last] ?? 0)
    to[at + second] = substituted(box, b, c, d, a) ^ (keys[last + second] ?? 0)
    to[at + 2] = substituted(box, c, d, a, b) ^ (keys[last + 2] ?? 0)
    to[at + fourth] = substituted(box, d, a, b, c) ^ (keys[last + fourth] ?? 0)
  }
  return new Uint8Array(to.buffer)
}

/** A column of the next state. Its rows come from the first byte of `a`, the second of `b`, the third of `c` and the last of `d`. */
function column(t: Int32Array, a: number, b: number, c: number, d: number): number {
  return (t[a & 0xff] ?? 0) ^ (t[256 + ((b >>> 8) & 0xff)] ?? 0) ^ (t[512 + ((c >>> 16) & 0xff)] ?? 0) ^ (t[768 + (d >>> 24)] ?? 0)
}

/** The same without MixColumns. */
function substituted(box: Uint8Array, a: number, b: number, c: number, d: number): number {
  const low = (box[a & 0xff] ?? 0) | ((box[(b >>> 8) & 0xff] ?? 0) << 8)
  return low | ((box[(c >>> 16) & 0xff] ?? 0) << 16) | ((box[d >>> 24] ?? 0) << 24)
}

/** FIPS 197, 5.2, with little-endian words. */
function expandKey(key: Uint8Array, box: Uint8Array): Int32Array {
  const length = key.length / 4
  const keys = new Int32Array(BLOCK_WORDS * (length + 7))
  keys.set(asWords(key.slice()))
  let constant = 1
  for (let at = length; at < keys.length; at++) {
    let word = keys[at - 1] ?? 0
    if (at % length === 0) {
      const turned = rotate(word, 24)
      word = substituted(box, turned, turned, turned, turned) ^ constant
      constant = doubled(constant)
    } else if (length > 6 && at % length === 4) {
      word = substituted(box, word, word, word, word)
    }
    keys[at] = (keys[at - length] ?? 0) ^ word
  }
  return keys
}

function invertKeys(keys: Int32Array, { backward, box }: Tables): Int32Array {
  const inverse = new Int32Array(keys.length)
  const last = keys.length - BLOCK_WORDS
  for (let at = 0; at < keys.length; at++) {
    const word = keys[last - (at - (at % BLOCK_WORDS)) + (at % BLOCK_WORDS)] ?? 0
    const isOuter = at < BLOCK_WORDS || at >= last
    // The box undoes InvSubBytes, so that the table adds only InvMixColumns.
    const plain = substituted(box, word, word, word, word)
    inverse[at] = isOuter ? word : column(backward, plain, plain, plain, plain)
  }
  return inverse
}

function makeTables(): Tables {
  const box = makeBox()
  const inverseBox = new Uint8Array(256)
  box.forEach((substitute, byte) => (inverseBox[substitute] = byte))
  return { box, inverseBox, forward: mixed(box, [2, 1, 1, 3]), backward: mixed(inverseBox, [14, 9, 13, 11]) }
}

/** FIPS 197, 5.1.1: the inverse in GF(2^8), then an affine transformation. 3 generates all of the field but 0. */
function makeBox(): Uint8Array {
  const box = new Uint8Array(256).fill(0x63)
  let power = 1
  // The inverse of `power`: 0xf6 is the inverse of 3.
  let inverse = 1
  for (let count = 0; count < 255; count++) {
    const twice = inverse * 0x101
    box[power] = (inverse ^ (twice >>> 7) ^ (twice >>> 6) ^ (twice >>> 5) ^ (twice >>> 4) ^ 0x63) & 0xff
    power = product(power, 3)
    inverse = product(inverse, 0xf6)
  }
  return box
}

/** Four tables of words, one for each row: the column that a byte of that row becomes by these factors. */
function mixed(box: Uint8Array, factors: readonly number[]): Int32Array {
  return Int32Array.from({ length: 4 * 256 }, (_, index) => {
    const byte = box[index % 256] ?? 0
    const first = factors.reduce((word, factor, row) => word | (product(byte, factor) << (8 * row)), 0)
    return rotate(first, 8 * Math.floor(index / 256))
  })
}

function product(first: number, second: number): number {
  let sum = 0
  for (let bit = 7; bit >= 0; bit--) {
    sum = doubled(sum)
    if (((second >>> bit) & 1) !== 0) sum ^= first
  }
  return sum
}

function doubled(byte: number): number {
  return (byte << 1) ^ ((byte & 0x80) !== 0 ? POLYNOMIAL : 0)
}
