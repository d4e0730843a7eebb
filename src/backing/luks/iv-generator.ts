/** The initialisation vectors of sectors, which depend on nothing but the sector's number and the key. */
import type { CipherSpec } from "./cipher-spec.ts"
import { makeBlockCipher } from "./ciphers/make-block-cipher.ts"
import type { BlockCipher, Cryptography } from "./cryptography.ts"
import { asBytes, asWords } from "./words.ts"

const WORDS = 4

/** IVs of neighbouring sectors, one after the other: four little-endian words each. */
export interface IvSource {
  take(sector: number, count: number): Int32Array
}

/** @param key the whole key of the volume: ESSIV encrypts by its digest */
export function ivSource(spec: CipherSpec, key: Uint8Array, cryptography: Cryptography): IvSource {
  if (spec.ivHash === undefined) return new PlainIv(spec.ivGenerator === "plain")
  return new EncryptedIv(makeBlockCipher(spec.name, cryptography.digest(spec.ivHash, key), cryptography))
}

class PlainIv implements IvSource {
  readonly #isShort: boolean
  #words = new Int32Array(0)

  constructor(isShort: boolean) {
    this.#isShort = isShort
  }

  take(sector: number, count: number): Int32Array {
    const length = count * WORDS
    if (this.#words.length < length) this.#words = new Int32Array(length)
    const words = this.#words
    for (let index = 0; index < count; index++) {
      const number = sector + index
      words[index * WORDS] = number % 2 ** 32
      words[index * WORDS + 1] = this.#isShort ? 0 : Math.floor(number / 2 ** 32)
    }
    return words.length === length ? words : words.subarray(0, length)
  }
}

class EncryptedIv implements IvSource {
  readonly #plain = new PlainIv(false)
  readonly #cipher: BlockCipher

  constructor(cipher: BlockCipher) {
    this.#cipher = cipher
  }

  take(sector: number, count: number): Int32Array {
    return asWords(this.#cipher.encrypt(asBytes(this.#plain.take(sector, count))))
  }
}
