/**
 * Serpent, a block cipher that QEMU can encrypt images with. OpenSSL lacks it, so we implement it, with integers of 32 bits.
 * R. Anderson, E. Biham, L. Knudsen: "Serpent: A Proposal for the Advanced Encryption Standard"
 */
import type { BlockCipher } from "../cryptography.ts"
import { eachBlock, rotate } from "./each-block.ts"

const ROUNDS = 32
const KEY_WORDS = 4 * (ROUNDS + 1)
const GOLDEN_RATIO = 0x9e37_79b9
/** In `substitute`, the S-boxes of decryption follow those of encryption. */
const INVERSE = 8

export class Serpent implements BlockCipher {
  /** Four words for each round, and four for the end. */
  readonly #keys: Int32Array

  /** `key`: 16, 24 or 32 bytes. */
  constructor(key: Uint8Array) {
    this.#keys = expandKey(key)
  }

  encrypt(blocks: Uint8Array): Uint8Array {
    const keys = this.#keys
    return eachBlock(blocks, (block) => {
      for (let round = 0; round < ROUNDS; round++) {
        addKey(block, keys, round)
        substitute(block, round & 7)
        if (round < ROUNDS - 1) mix(block)
      }
      addKey(block, keys, ROUNDS)
    })
  }

  decrypt(blocks: Uint8Array): Uint8Array {
    const keys = this.#keys
    return eachBlock(blocks, (block) => {
      addKey(block, keys, ROUNDS)
      for (let round = ROUNDS - 1; round >= 0; round--) {
        if (round < ROUNDS - 1) unmix(block)
        substitute(block, INVERSE + (round & 7))
        addKey(block, keys, round)
      }
    })
  }
}

function expandKey(key: Uint8Array): Int32Array {
  const padded = new Uint8Array(32)
  padded.set(key)
  // A shorter key is padded to 256 bits with a 1 and zeroes.
  if (key.length < padded.length) padded[key.length] = 1
  const view = new DataView(padded.buffer)
  const words = Array.from({ length: 8 }, (_, index) => view.getInt32(index * 4, true))
  const before = (back: number): number => words[words.length - back] ?? 0
  for (let index = 0; index < KEY_WORDS; index++) {
    words.push(rotate(before(8) ^ before(5) ^ before(3) ^ before(1) ^ GOLDEN_RATIO ^ index, 11))
  }
  const keys = Int32Array.from(words.slice(8))
  // The keys use the boxes in descending order, starting with number 3.
  for (let round = 0; round <= ROUNDS; round++) substitute(keys.subarray(round * 4, round * 4 + 4), (3 - round) & 7)
  return keys
}

function addKey(block: Int32Array, keys: Int32Array, round: number): void {
  for (let index = 0; index < 4; index++) block[index] = (block[index] ?? 0) ^ (keys[round * 4 + index] ?? 0)
}

/** The linear transformation. */
function mix(block: Int32Array): void {
  const a = rotate(block[0] ?? 0, 13)
  const c = rotate(block[2] ?? 0, 3)
  const b = rotate((block[1] ?? 0) ^ a ^ c, 1)
  const d = rotate((block[3] ?? 0) ^ c ^ (a << 3), 7)
  block[0] = rotate(a ^ b ^ d, 5)
  block[1] = b
  block[2] = rotate(c ^ d ^ (b << 7), 22)
  block[3] = d
}

function unmix(block: Int32Array): void {
  const b = block[1] ?? 0
  const d = block[3] ?? 0
  const a = rotate(block[0] ?? 0, 27) ^ b ^ d
  const c = rotate(block[2] ?? 0, 10) ^ d ^ (b << 7)
  block[0] = rotate(a, 19)
  block[1] = rotate(b, 31) ^ a ^ c
  block[2] = rotate(c, 29)
  block[3] = rotate(d, 25) ^ c ^ (a << 3)
}

/**
 * Puts all 32 columns of a block through S-box `box` at once, bit by bit: each bit of the result is a sum (XOR) of products (AND) of bits,
 * the algebraic normal form of the box's table.
 */
function substitute(block: Int32Array, box: number): void {
  const a = block[0] ?? 0
  const b = block[1] ?? 0
  const c = block[2] ?? 0
  const d = block[3] ?? 0
  const ab = a & b
  const ac = a & c
  const bc = b & c
  const ad = a & d
  const bd = b & d
  const cd = c & d
  const abc = ab & c
  const abd = ab & d
  const acd = ac & d
  const bcd = bc & d
  let w = 0
  let x = 0
  let y = 0
  let z = 0
  switch (box) {
    case 0:
      w = ~(a ^ c ^ d ^ ab ^ ac ^ bc ^ abc ^ acd ^ bcd)
      x = ~(a ^ ac ^ bc ^ bd ^ abc ^ acd ^ bcd)
      y = b ^ d ^ ab ^ ac ^ bd ^ abc ^ bcd
      z = a ^ b ^ c ^ d ^ ad
      break
    case 1:
      w = ~(a ^ b ^ bc ^ ad ^ cd ^ acd ^ bcd)
      x = ~(a ^ c ^ d ^ ab ^ ac ^ bd ^ abd ^ acd ^ bcd)
      y = ~(b ^ c ^ d ^ ab)
      z = ~(b ^ d ^ ac ^ ad ^ abd ^ acd ^ bcd)
      break
    case 2:
      w = b ^ c ^ d ^ ac
      x = a ^ b ^ c ^ bc ^ ad ^ cd ^ abc ^ abd ^ acd
      y = a ^ b ^ d ^ bc ^ bd ^ cd ^ abd ^ acd
      z = ~(a ^ b ^ c ^ bd ^ abc)
      break
    case 3:
      w = a ^ b ^ d ^ bc ^ ad ^ cd ^ acd ^ bcd
      x = a ^ b ^ ac ^ ad ^ cd ^ abd ^ acd
      y = a ^ c ^ d ^ ab ^ bd ^ abc ^ abd
      z = a ^ b ^ c ^ d ^ ab ^ ac ^ cd ^ abc ^ acd
      break
    case 4:
      w = ~(b ^ c ^ d ^ ab ^ ad ^ bd)
      x = a ^ d ^ ac ^ bc ^ bd ^ cd ^ acd ^ bcd
      y = a ^ c ^ ab ^ bc ^ bd ^ cd ^ abc ^ abd ^ bcd
      z = a ^ b ^ c ^ bc ^ ad ^ bd ^ abd
      break
    case 5:
      w = ~(b ^ c ^ d ^ ab ^ ad ^ bd)
      x = ~(a ^ c ^ d ^ ab ^ bd ^ cd ^ abd)
      y = ~(b ^ d ^ ac ^ cd ^ abd ^ acd ^ bcd)
      z = ~(a ^ b ^ c ^ d ^ ad ^ abc ^ acd)
      break
    case 6:
      w = ~(a ^ b ^ c ^ d ^ ac ^ bc ^ abc ^ abd ^ bcd)
      x = ~(b ^ c ^ ad)
      y = ~(a ^ c ^ ab ^ bc ^ bd ^ cd ^ abc ^ abd ^ bcd)
      z = b ^ c ^ d ^ ab ^ ac ^ cd ^ abc ^ bcd
      break
    case 7:
      w = ~(c ^ ab ^ ad ^ bd ^ cd ^ acd ^ bcd)
      x = b ^ c ^ d ^ ab ^ ac ^ bc ^ ad ^ abd ^ acd
      y = a ^ b ^ c ^ d ^ ad ^ bd ^ abc ^ abd ^ bcd
      z = a ^ b ^ c ^ ac ^ ad ^ abc
      break
    case 8:
      w = ~(c ^ ab ^ bc ^ ad ^ bd ^ cd ^ abd ^ acd ^ bcd)
      x = a ^ b ^ c ^ ac ^ bd ^ acd ^ bcd
      y = ~(a ^ b ^ c ^ d ^ ab)
      z = ~(a ^ d ^ bc ^ cd ^ abd ^ acd ^ bcd)
      break
    case 9:
      w = ~(a ^ b ^ ab ^ bd ^ abc ^ acd ^ bcd)
      x = b ^ c ^ d ^ ad ^ bd ^ abc ^ acd ^ bcd
      y = ~(a ^ b ^ d ^ ac ^ bc ^ abc ^ acd)
      z = a ^ c ^ d ^ bd
      break
    case 10:
      w = a ^ b ^ c ^ bc ^ bd
      x = b ^ c ^ ab ^ ad ^ cd ^ abd ^ acd
      y = ~(a ^ c ^ d ^ ab ^ ad ^ bd ^ abd ^ acd)
      z = ~(d ^ ab ^ bc ^ abc ^ acd)
      break
    case 11:
      w = a ^ c ^ d ^ bc ^ ad ^ bd ^ bcd
      x = b ^ c ^ d ^ bc ^ ad ^ abc ^ acd ^ bcd
      y = ab ^ ac ^ bc ^ ad ^ bd ^ cd ^ abd ^ acd
      z = a ^ b ^ c ^ ac ^ ad ^ cd ^ abc ^ abd
      break
    case 12:
      w = ~(a ^ b ^ c ^ d ^ ad ^ cd ^ abd ^ acd)
      x = c ^ d ^ ab ^ ac ^ ad ^ acd
      y = ~(a ^ b ^ c ^ d ^ ab ^ ac ^ bd ^ abc ^ abd)
      z = b ^ c ^ ab ^ ad ^ cd ^ abd
      break
    case 13:
      w = a ^ d ^ bc ^ abd
      x = a ^ b ^ d ^ ac ^ bc ^ ad ^ abc ^ abd
      y = a ^ c ^ ab ^ bd ^ abd ^ acd
      z = ~(b ^ c ^ ab ^ ad ^ abc)
      break
    case 14:
      w = ~(a ^ d ^ ab ^ ac ^ bc ^ abc ^ abd ^ bcd)
      x = ~(b ^ c ^ d ^ ac)
      y = ~(a ^ b ^ bc ^ bd ^ cd ^ abd ^ bcd)
      z = ~(b ^ c ^ d ^ ab ^ bc ^ ad ^ cd ^ abc ^ abd ^ bcd)
      break
    case 15:
      w = ~(a ^ b ^ bc ^ bd ^ cd ^ abd ^ bcd)
      x = ~(a ^ c ^ d ^ bc ^ ad ^ bd ^ acd ^ bcd)
      y = b ^ d ^ ac ^ cd ^ abd ^ acd
      z = c ^ ab ^ ad ^ bd ^ abc ^ abd
      break
  }
  block[0] = w
  block[1] = x
  block[2] = y
  block[3] = z
}
