/**
 * PageCryptography: the cryptography of encrypted images in a page or a worker. The platform derives keys asynchronously: a derivation that
 * is not done yet throws `NotLoaded`, and the caller repeats the call. AES and the hashes are ours.
 */
import { NotLoaded } from "../async-image-file.ts"
import { isEqual } from "../bytes/buffers.ts"
import { Aes } from "./ciphers/aes.ts"
import type { BlockCipher, Cryptography, KeyDerivation } from "./cryptography.ts"
import { digest, type HashFunction } from "./hashes/hash-function.ts"
import { md5 } from "./hashes/md5.ts"
import { deriveKey } from "./hashes/pbkdf2.ts"
import { ripemd160 } from "./hashes/ripemd160.ts"
import { sha1 } from "./hashes/sha1.ts"
import { sha224, sha256 } from "./hashes/sha256.ts"
import { sha384, sha512 } from "./hashes/sha512.ts"

const HASHES: ReadonlyMap<string, HashFunction> = new Map(Object.entries({ md5, sha1, ripemd160, sha224, sha256, sha384, sha512 }))
/** Web Crypto's names of the hashes that it has. */
const SUBTLE_NAMES: ReadonlyMap<string, string> = new Map([
  ["sha1", "SHA-1"], ["sha256", "SHA-256"], ["sha384", "SHA-384"], ["sha512", "SHA-512"],
])
/** Iterations of the first trial. Later trials have more, until the time can be measured. */
const FIRST_TRIAL = 1 << 12
/** Milliseconds that a trial must take to count, because a page's clock may be coarse. */
const TRIAL_MILLISECONDS = 50
/** Most bytes of one call of `getRandomValues`. */
const MOST_RANDOM = 65536

/** The part of Web Crypto that we use. A page served over plain HTTP has no `subtle`. */
export interface WebCrypto {
  readonly subtle?: {
    importKey(format: "raw", key: Uint8Array, algorithm: "PBKDF2", extractable: false, usages: ["deriveBits"]): Promise<unknown>
    deriveBits(algorithm: object, key: unknown, bits: number): Promise<ArrayBuffer>
  }
  getRandomValues(array: Uint8Array): unknown
}

/** For opening or making a single image, because it keeps the keys that it derives. */
export class PageCryptography implements Cryptography {
  readonly #web: WebCrypto
  readonly #derived: { readonly derivation: KeyDerivation; readonly key: Uint8Array }[] = []
  /** Iterations per millisecond, by hash and length. */
  readonly #speeds = new Map<string, number>()
  /** The results of `random`, for repeated calls. */
  readonly #drawn: Uint8Array[] = []
  #draws = 0

  constructor(web: WebCrypto = (globalThis as unknown as { readonly crypto: WebCrypto }).crypto) {
    this.#web = web
  }

  aes(key: Uint8Array): BlockCipher {
    return new Aes(key)
  }

  hasHash(hash: string): boolean {
    return HASHES.has(hash)
  }

  digest(hash: string, data: Uint8Array): Uint8Array {
    return digest(hashOf(hash), data)
  }

  /** Returns the same array each time for the same derivation. */
  deriveKey(derivation: KeyDerivation): Uint8Array {
    const found = this.#derived.find((one) => isSame(one.derivation, derivation))
    if (found !== undefined) return found.key
    throw this.#later(async () => {
      // Copies, because the caller's bytes may have changed when the answer comes.
      const kept = { ...derivation, passphrase: derivation.passphrase.slice(), salt: derivation.salt.slice() }
      this.#derived.push({ derivation: kept, key: await this.#derive(kept) })
    })
  }

  countIterations({ hash, length, milliseconds }: { hash: string; length: number; milliseconds: number }): number {
    const name = `${hash} ${length}`
    const speed = this.#speeds.get(name)
    if (speed !== undefined) return Math.max(1, Math.round(speed * milliseconds))
    throw this.#later(async () => {
      this.#speeds.set(name, await this.#measure(hash, length))
    })
  }

  /** A call that is repeated after `NotLoaded` gets the same bytes as the first time, in the same order. */
  random(length: number): Uint8Array {
    const drawn = this.#drawn[this.#draws] ?? new Uint8Array(length)
    if (this.#draws === this.#drawn.length) {
      for (let at = 0; at < length; at += MOST_RANDOM) this.#web.getRandomValues(drawn.subarray(at, at + MOST_RANDOM))
      this.#drawn.push(drawn)
    }
    this.#draws++
    return drawn.slice()
  }

  equal(first: Uint8Array, second: Uint8Array): boolean {
    return first.reduce((found, byte, at) => found | (byte ^ (second[at] ?? 0)), 0) === 0
  }

  #later(load: () => Promise<void>): NotLoaded {
    this.#draws = 0
    return new NotLoaded(load)
  }

  /** Uses Web Crypto if possible, which is ten times as fast. */
  async #derive(derivation: KeyDerivation): Promise<Uint8Array> {
    const { subtle } = this.#web
    const name = SUBTLE_NAMES.get(derivation.hash)
    const ours = (): Promise<Uint8Array> => deriveKey(hashOf(derivation.hash), derivation)
    if (subtle === undefined || name === undefined) return await ours()
    const { passphrase, salt, iterations, length } = derivation
    try {
      const key = await subtle.importKey("raw", passphrase, "PBKDF2", false, ["deriveBits"])
      return new Uint8Array(await subtle.deriveBits({ name: "PBKDF2", hash: name, salt, iterations }, key, length * 8))
    } catch {
      // A DOMException: some browsers refuse an empty passphrase, some a hash that their policy forbids.
      return await ours()
    }
  }

  async #measure(hash: string, length: number): Promise<number> {
    const salt = new Uint8Array(32)
    for (let iterations = FIRST_TRIAL; ; iterations *= 4) {
      const before = performance.now()
      await this.#derive({ hash, passphrase: salt, salt, iterations, length })
      const spent = performance.now() - before
      if (spent >= TRIAL_MILLISECONDS || iterations >= 2 ** 24) return iterations / Math.max(spent, 1)
    }
  }
}

function hashOf(name: string): HashFunction {
  const hash = HASHES.get(name)
  if (hash !== undefined) return hash
  throw new Error(`"${name}" is not a hash that hasHash knows`)
}

function isSame(first: KeyDerivation, second: KeyDerivation): boolean {
  return first.hash === second.hash && first.iterations === second.iterations && first.length === second.length &&
    isSameBytes(first.passphrase, second.passphrase) && isSameBytes(first.salt, second.salt)
}

function isSameBytes(first: Uint8Array, second: Uint8Array): boolean {
  return first.length === second.length && isEqual(first, second)
}
