/** The initialisation vectors of sectors, which depend only on the sector's number and the key. */
import { BLOCK_BYTES, type CipherSpec } from "../cipher-spec.ts"
import { makeBlockCipher } from "../ciphers/make-block-cipher.ts"
import type { BlockCipher, Cryptography } from "../cryptography.ts"
import { asBytes, asWords } from "../words.ts"

/** IVs of consecutive sectors, one after the other, each of a block's size, as little-endian words. */
export interface IvSource {
  take(sector: number, count: number): Int32Array
}

/** The parameters of a mode that chains blocks. */
export interface IvsOfBlocks {
  readonly ivs: IvSource
  readonly blockBytes: number
}

/** @param key the whole key of the volume: ESSIV encrypts with its digest */
export function ivSource(spec: CipherSpec, key: Uint8Array, cryptography: Cryptography): IvSource {
  const plain = new PlainIv(BLOCK_BYTES[spec.name] / 4, spec.ivGenerator === "plain")
  if (spec.ivHash === undefined) return plain
  return new EncryptedIv(plain, makeBlockCipher(spec.name, cryptography.digest(spec.ivHash, key), cryptography))
}

class PlainIv implements IvSource {
  /** Words of one IV. */
  readonly #blockWords: number
  readonly #isShort: boolean
  #words = new Int32Array(0)

  constructor(blockWords: number, isShort: boolean) {
    this.#blockWords = blockWords
    this.#isShort = isShort
  }

  take(sector: number, count: number): Int32Array {
    const each = this.#blockWords
    const length = count * each
    if (this.#words.length < length) this.#words = new Int32Array(length)
    const words = this.#words
    for (let index = 0; index < count; index++) {
      const number = sector + index
      words[index * each] = number % 2 ** 32
      words[index * each + 1] = this.#isShort ? 0 : Math.floor(number / 2 ** 32)
    }
    return words.length === length ? words : words.subarray(0, length)
  }
}

class EncryptedIv implements IvSource {
  readonly #plain: PlainIv
  readonly #cipher: BlockCipher

  constructor(plain: PlainIv, cipher: BlockCipher) {
    this.#plain = plain
    this.#cipher = cipher
  }

  take(sector: number, count: number): Int32Array {
    return asWords(this.#cipher.encrypt(asBytes(this.#plain.take(sector, count))))
  }
}
