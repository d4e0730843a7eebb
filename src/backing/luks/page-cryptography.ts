/**
 * PageCryptography: the cryptography of encrypted images in a page or a worker. The platform derives keys asynchronously.
 * AES and the hashes are ours.
 */
import { type StopSignal, throwIfStopped, unlessStopped } from "../../turns.ts"
import { Aes } from "./ciphers/aes.ts"
import type { BlockCipher, KeyDerivation } from "./cryptography.ts"
import { digest, type HashFunction } from "./hashes/hash-function.ts"
import { md5 } from "./hashes/md5.ts"
import { deriveKey } from "./hashes/pbkdf2.ts"
import { ripemd160 } from "./hashes/ripemd160.ts"
import { sha1 } from "./hashes/sha1.ts"
import { sha224, sha256 } from "./hashes/sha256.ts"
import { sha384, sha512 } from "./hashes/sha512.ts"
import { LateCryptography } from "./late-cryptography.ts"

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

/** Options of `PageCryptography`. */
export interface PageOptions {
  readonly web?: WebCrypto
  /** Stops derivations. What Web Crypto has begun goes on in the background, unheard. */
  readonly signal?: StopSignal | undefined
}

/** For opening or making a single image, because it keeps the keys that it derives. */
export class PageCryptography extends LateCryptography {
  readonly #web: WebCrypto
  /** Iterations per millisecond, by hash and length. */
  readonly #speeds = new Map<string, number>()

  constructor({ web = (globalThis as unknown as { readonly crypto: WebCrypto }).crypto, signal }: PageOptions = {}) {
    super(signal)
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

  countIterations({ hash, length, milliseconds }: { hash: string; length: number; milliseconds: number }): number {
    const name = `${hash} ${length}`
    const speed = this.#speeds.get(name)
    if (speed !== undefined) return Math.max(1, Math.round(speed * milliseconds))
    throw this.later(async () => {
      this.#speeds.set(name, await this.#measure(hash, length))
    })
  }

  protected override draw(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += MOST_RANDOM) this.#web.getRandomValues(bytes.subarray(at, at + MOST_RANDOM))
  }

  equal(first: Uint8Array, second: Uint8Array): boolean {
    return first.reduce((found, byte, at) => found | (byte ^ (second[at] ?? 0)), 0) === 0
  }

  /** Uses Web Crypto if possible, which is ten times as fast. */
  protected override async derive(derivation: KeyDerivation): Promise<Uint8Array> {
    const { subtle } = this.#web
    const name = SUBTLE_NAMES.get(derivation.hash)
    const ours = (): Promise<Uint8Array> => deriveKey(hashOf(derivation.hash), derivation, this.signal)
    if (subtle === undefined || name === undefined) return await ours()
    const { passphrase, salt, iterations, length } = derivation
    try {
      const key = await subtle.importKey("raw", passphrase, "PBKDF2", false, ["deriveBits"])
      const bits = subtle.deriveBits({ name: "PBKDF2", hash: name, salt, iterations }, key, length * 8)
      return new Uint8Array(await unlessStopped(bits, this.signal))
    } catch {
      throwIfStopped(this.signal)
      // A DOMException: some browsers refuse an empty passphrase, some a hash that their policy forbids.
      return await ours()
    }
  }

  async #measure(hash: string, length: number): Promise<number> {
    const salt = new Uint8Array(32)
    for (let iterations = FIRST_TRIAL; ; iterations *= 4) {
      const before = performance.now()
      await this.derive({ hash, passphrase: salt, salt, iterations, length })
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
