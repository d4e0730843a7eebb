/** PBKDF2 with HMAC of our hashes, for hashes that the platform lacks. RFC 8018 5.2, RFC 2104. Yields every few milliseconds. */
import { type StopSignal, Turns } from "../../../turns.ts"
import type { KeyDerivation } from "../cryptography.ts"
import { absorb, digest, type HashFunction, pad, wordBytes } from "./hash-function.ts"

/** Iterations between two checks of the clock. */
const AT_ONCE = 256

/** @throws the signal's reason if it is aborted */
export async function deriveKey(hash: HashFunction, derivation: KeyDerivation, signal?: StopSignal): Promise<Uint8Array> {
  const { passphrase, salt, iterations, length } = derivation
  const { blockBytes, digestBytes } = hash
  const key = new Uint8Array(blockBytes)
  key.set(passphrase.length > blockBytes ? digest(hash, passphrase) : passphrase)
  const hmac = new Hmac(hash, key)
  const turns = new Turns(signal)
  const derived = new Uint8Array(Math.ceil(length / digestBytes) * digestBytes)
  for (let index = 0; index * digestBytes < length; index++) {
    const numbered = new Uint8Array(salt.length + 4)
    numbered.set(salt)
    new DataView(numbered.buffer).setUint32(salt.length, index + 1)
    const sum = hmac.begin(numbered)
    for (let left = iterations - 1; left > 0; left -= AT_ONCE) {
      await turns.turn()
      hmac.iterate(sum, Math.min(left, AT_ONCE))
    }
    derived.set(wordBytes(sum, hash), index * digestBytes)
  }
  return derived.subarray(0, length)
}

/** HMAC with a key of a block's size. The states after hashing the key are computed once, before the first message. */
class Hmac {
  readonly #hash: HashFunction
  readonly #inner: Int32Array
  readonly #outer: Int32Array
  readonly #state: Int32Array
  /** The last result, padded to one block for the next hash. */
  readonly #block: Int32Array
  readonly #words: number

  constructor(hash: HashFunction, key: Uint8Array) {
    this.#hash = hash
    this.#inner = started(hash, key, 0x36)
    this.#outer = started(hash, key, 0x5c)
    this.#state = hash.start.slice()
    this.#words = hash.digestBytes / 4
    const padded = new DataView(pad(new Uint8Array(hash.digestBytes), hash, hash.blockBytes).buffer)
    this.#block = Int32Array.from({ length: hash.blockBytes / 4 }, (_, index) => padded.getInt32(4 * index, hash.isLittleEndian))
  }

  /** The HMAC of a message, as words. `iterate` continues from it. */
  begin(message: Uint8Array): Int32Array {
    this.#state.set(this.#inner)
    absorb(this.#hash, this.#state, pad(message, this.#hash, this.#hash.blockBytes))
    this.#finish()
    return this.#block.slice(0, this.#words)
  }

  /** Replaces the last result by its HMAC `count` times, and XORs each into `sum`. */
  iterate(sum: Int32Array, count: number): void {
    const block = this.#block
    const { compress } = this.#hash
    for (let done = 0; done < count; done++) {
      this.#state.set(this.#inner)
      compress(this.#state, block)
      this.#finish()
      for (let at = 0; at < sum.length; at++) sum[at] = (sum[at] ?? 0) ^ (block[at] ?? 0)
    }
  }

  /** Puts the state of the inner hash into the block, then that of the outer one. */
  #finish(): void {
    for (let at = 0; at < this.#words; at++) this.#block[at] = this.#state[at] ?? 0
    this.#state.set(this.#outer)
    this.#hash.compress(this.#state, this.#block)
    for (let at = 0; at < this.#words; at++) this.#block[at] = this.#state[at] ?? 0
  }
}

function started(hash: HashFunction, key: Uint8Array, mask: number): Int32Array {
  const state = hash.start.slice()
  absorb(hash, state, key.map((byte) => byte ^ mask).slice())
  return state
}
