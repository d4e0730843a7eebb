/**
 * XTS: each block is XORed with a tweak before and after AES. The first tweak of a sector is its IV, encrypted by the second key; the next
 * ones are doubled in GF(2^128). IEEE 1619-2018, 5.3
 */
import type { BlockCipher } from "./cryptography.ts"
import { asBytes, asWords, type IvSource } from "./iv-generator.ts"
import type { SectorCipher } from "./sector-cipher.ts"

const SECTOR_WORDS = 128
const BLOCK_WORDS = 4
/** x^128 = x^7 + x^2 + x + 1 */
const REDUCTION = 0x87

export interface XtsParts {
  readonly data: BlockCipher
  readonly tweak: BlockCipher
  readonly ivs: IvSource
}

export class XtsCipher implements SectorCipher {
  readonly #data: BlockCipher
  readonly #tweak: BlockCipher
  readonly #ivs: IvSource
  /** The tweaks of the blocks of one call, kept from before AES to after it. */
  #tweaks = new Int32Array(0)

  constructor({ data, tweak, ivs }: XtsParts) {
    this.#data = data
    this.#tweak = tweak
    this.#ivs = ivs
  }

  encrypt(data: Uint8Array, sector: number): void {
    const words = asWords(data)
    this.#whiten(words, sector)
    xorInto(words, asWords(this.#data.encrypt(data)), this.#tweaks)
  }

  decrypt(data: Uint8Array, sector: number): void {
    const words = asWords(data)
    this.#whiten(words, sector)
    xorInto(words, asWords(this.#data.decrypt(data)), this.#tweaks)
  }

  /** Makes the tweaks and XORs `words` with them. */
  #whiten(words: Int32Array, sector: number): void {
    const count = Math.ceil(words.length / SECTOR_WORDS)
    const first = asWords(this.#tweak.encrypt(asBytes(this.#ivs.take(sector, count))))
    if (this.#tweaks.length < words.length) this.#tweaks = new Int32Array(words.length)
    for (let index = 0; index < count; index++) {
      const start = index * SECTOR_WORDS
      whitenSector(words, this.#tweaks, { start, end: Math.min(start + SECTOR_WORDS, words.length), first, from: index * BLOCK_WORDS })
    }
  }
}

interface Sector {
  /** Words of the run. */
  readonly start: number
  readonly end: number
  /** The first tweak, at word `from`. */
  readonly first: Int32Array
  readonly from: number
}

function whitenSector(words: Int32Array, tweaks: Int32Array, { start, end, first, from }: Sector): void {
  let w0 = first[from] ?? 0
  let w1 = first[from + 1] ?? 0
  let w2 = first[from + 2] ?? 0
  let w3 = first[from + 3] ?? 0
  for (let at = start; at < end; at += BLOCK_WORDS) {
    tweaks[at] = w0
    tweaks[at + 1] = w1
    tweaks[at + 2] = w2
    tweaks[at + 3] = w3
    words[at] = (words[at] ?? 0) ^ w0
    words[at + 1] = (words[at + 1] ?? 0) ^ w1
    words[at + 2] = (words[at + 2] ?? 0) ^ w2
    words[at + 3] = (words[at + 3] ?? 0) ^ w3
    const carry = w3 >> 31
    w3 = (w3 << 1) | (w2 >>> 31)
    w2 = (w2 << 1) | (w1 >>> 31)
    w1 = (w1 << 1) | (w0 >>> 31)
    w0 = (w0 << 1) ^ (carry & REDUCTION)
  }
}

function xorInto(target: Int32Array, words: Int32Array, tweaks: Int32Array): void {
  for (let at = 0; at < target.length; at++) target[at] = (words[at] ?? 0) ^ (tweaks[at] ?? 0)
}
