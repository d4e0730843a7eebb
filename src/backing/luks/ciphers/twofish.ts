/**
 * Twofish, a block cipher that QEMU can encrypt images with. OpenSSL lacks it, so we implement it, with integers of 32 bits.
 * B. Schneier and others: "Twofish: A 128-Bit Block Cipher"; the names are those of section 4.
 */
import { viewOf } from "../../bytes/fields.ts"
import type { BlockCipher } from "../cryptography.ts"
import { eachBlock, rotate } from "./each-block.ts"

const ROUNDS = 16
/** Words of the expanded key: four before the first round, four after the last one, then two for each round. */
const KEY_WORDS = 8 + 2 * ROUNDS
/** x^8 + x^6 + x^5 + x^3 + 1, and x^8 + x^6 + x^3 + x^2 + 1 */
const MDS_POLYNOMIAL = 0x169
const RS_POLYNOMIAL = 0x14d

const MDS = [[0x01, 0xef, 0x5b, 0x5b], [0x5b, 0xef, 0xef, 0x01], [0xef, 0x5b, 0x01, 0xef], [0xef, 0x01, 0xef, 0x5b]] as const
const RS = [
  [0x01, 0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e], [0xa4, 0x56, 0x82, 0xf3, 0x1e, 0xc6, 0x68, 0xe5],
  [0x02, 0xa1, 0xfc, 0xc1, 0x47, 0xae, 0x3d, 0x19], [0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e, 0x03],
] as const

/** The permutations q0 and q1 of bytes. Each is made of four permutations of half bytes, written here with one digit for each entry. */
const Q = [
  permutation(["817d6f320b59eca4", "ecb81235f4a6709d", "ba5e6d90c8f32471", "d7f4126e9b3085ca"]),
  permutation(["28bdf76e31940ac5", "1e2b4c376da5f908", "4c75169a0ed82b3f", "b951c3de647f208a"]),
] as const
/** The permutation for each byte of a word in h. The first row is only for keys of 256 bits, the second also for 192 bits. */
const ORDER = [[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0]] as const
const LAST = ORDER.length - 1

export class Twofish implements BlockCipher {
  readonly #keys: Int32Array
  /** The function g for each value of each byte of its word: tables of 256 words, one after the other. */
  readonly #tables: Int32Array

  /** `key`: 16, 24 or 32 bytes. */
  constructor(key: Uint8Array) {
    const view = viewOf(key)
    const words = Array.from({ length: key.length / 4 }, (_, index) => view.getInt32(index * 4, true))
    this.#keys = expandKey(words)
    const folded = Array.from({ length: key.length / 8 }, (_, index) => foldKey(key.subarray(index * 8, index * 8 + 8)))
    this.#tables = makeTables(folded.reverse())
  }

  encrypt(blocks: Uint8Array): Uint8Array {
    const keys = this.#keys
    return eachBlock(blocks, (block) => {
      whiten(block, keys, 0)
      for (let round = 0; round < ROUNDS; round++) {
        const [a, b, c, d] = [block[0] ?? 0, block[1] ?? 0, block[2] ?? 0, block[3] ?? 0]
        const first = this.#g(a)
        const second = this.#g(rotate(b, 8))
        block[0] = rotate(c ^ (first + second + (keys[8 + 2 * round] ?? 0)), 31)
        block[1] = rotate(d, 1) ^ (first + 2 * second + (keys[9 + 2 * round] ?? 0))
        block[2] = a
        block[3] = b
      }
      exchangeHalves(block)
      whiten(block, keys, 4)
    })
  }

  decrypt(blocks: Uint8Array): Uint8Array {
    const keys = this.#keys
    return eachBlock(blocks, (block) => {
      whiten(block, keys, 4)
      exchangeHalves(block)
      for (let round = ROUNDS - 1; round >= 0; round--) {
        const [c, d, a, b] = [block[0] ?? 0, block[1] ?? 0, block[2] ?? 0, block[3] ?? 0]
        const first = this.#g(a)
        const second = this.#g(rotate(b, 8))
        block[0] = a
        block[1] = b
        block[2] = rotate(c, 1) ^ (first + second + (keys[8 + 2 * round] ?? 0))
        block[3] = rotate(d ^ (first + 2 * second + (keys[9 + 2 * round] ?? 0)), 31)
      }
      whiten(block, keys, 0)
    })
  }

  #g(word: number): number {
    const tables = this.#tables
    const low = (tables[word & 0xff] ?? 0) ^ (tables[256 + ((word >>> 8) & 0xff)] ?? 0)
    return low ^ (tables[512 + ((word >>> 16) & 0xff)] ?? 0) ^ (tables[768 + (word >>> 24)] ?? 0)
  }
}

function whiten(block: Int32Array, keys: Int32Array, from: number): void {
  for (let index = 0; index < 4; index++) block[index] = (block[index] ?? 0) ^ (keys[from + index] ?? 0)
}

function exchangeHalves(block: Int32Array): void {
  block.set([block[2] ?? 0, block[3] ?? 0, block[0] ?? 0, block[1] ?? 0])
}

/** The words K. */
function expandKey(words: readonly number[]): Int32Array {
  const even = words.filter((_, index) => index % 2 === 0)
  const odd = words.filter((_, index) => index % 2 === 1)
  const keys = new Int32Array(KEY_WORDS)
  for (let index = 0; index < KEY_WORDS; index += 2) {
    const a = h(index, even)
    const b = rotate(h(index + 1, odd), 8)
    keys[index] = a + b
    keys[index + 1] = rotate((a + 2 * b) | 0, 9)
  }
  return keys
}

/** A word of the vector S, of eight bytes of the key. */
function foldKey(bytes: Uint8Array): number {
  return RS.reduce((word, row, index) => {
    const sum = row.reduce<number>((found, factor, at) => found ^ multiply(factor, bytes[at] ?? 0, RS_POLYNOMIAL), 0)
    return word | (sum << (8 * index))
  }, 0)
}

function makeTables(list: readonly number[]): Int32Array {
  return Int32Array.from({ length: 4 * 256 }, (_, index) => column(index % 256, Math.floor(index / 256), list))
}

/** The function h of a word whose bytes are all `byte`. */
function h(byte: number, list: readonly number[]): number {
  return column(byte, 0, list) ^ column(byte, 1, list) ^ column(byte, 2, list) ^ column(byte, 3, list)
}

/** The contribution of byte number `place` of a word to h. */
function column(byte: number, place: number, list: readonly number[]): number {
  let found = byte
  for (let stage = LAST - list.length; stage < LAST; stage++) {
    found = permuted(found, stage, place) ^ (((list[LAST - 1 - stage] ?? 0) >>> (8 * place)) & 0xff)
  }
  found = permuted(found, LAST, place)
  return MDS.reduce((word, row, index) => word | (multiply(row[place] ?? 0, found, MDS_POLYNOMIAL) << (8 * index)), 0)
}

function permuted(byte: number, stage: number, place: number): number {
  return Q[ORDER[stage]?.[place] ?? 0]?.[byte] ?? 0
}

/** Multiplies in GF(2^8) with this polynomial. */
function multiply(first: number, second: number, polynomial: number): number {
  let product = 0
  for (let bit = 7; bit >= 0; bit--) {
    product = (product << 1) ^ ((product & 0x80) !== 0 ? polynomial : 0)
    if (((second >>> bit) & 1) !== 0) product ^= first
  }
  return product
}

function permutation(tables: readonly string[]): Uint8Array {
  const [t0, t1, t2, t3] = tables.map((digits) => Array.from(digits, (digit) => Number.parseInt(digit, 16)))
  return Uint8Array.from({ length: 256 }, (_, byte) => {
    const a = t0?.[(byte >>> 4) ^ (byte & 0xf)] ?? 0
    const b = t1?.[mixHalves(byte >>> 4, byte & 0xf)] ?? 0
    return ((t3?.[mixHalves(a, b)] ?? 0) << 4) | (t2?.[a ^ b] ?? 0)
  })
}

/** `a` XOR `b` rotated right by a bit XOR 8 a, in half bytes. */
function mixHalves(a: number, b: number): number {
  return a ^ (b >>> 1) ^ ((b & 1) << 3) ^ ((a << 3) & 0xf)
}
