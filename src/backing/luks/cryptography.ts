/**
 * Cryptography: the functions that encryption needs from the platform. `backing/host` has Node's. A page has Web Crypto, which returns
 * promises and lacks XTS and ECB: `PageCryptography` uses only its key derivation, and does the rest in JavaScript.
 */
import type { Rules } from "../../options.ts"

/**
 * A block cipher with its key. Both calls take whole blocks (AES: of 16 bytes), transform each independently, and return as many bytes in
 * a new array.
 */
export interface BlockCipher {
  encrypt(blocks: Uint8Array): Uint8Array
  decrypt(blocks: Uint8Array): Uint8Array
}

/** The parameters of PBKDF2: RFC 8018 5.2, with HMAC of `hash`. */
export interface KeyDerivation {
  /** In LUKS's spelling: "sha256". */
  readonly hash: string
  readonly passphrase: Uint8Array
  readonly salt: Uint8Array
  readonly iterations: number
  /** Bytes. */
  readonly length: number
}

/** The functions that encrypted images need from the platform. All are synchronous. */
export interface Cryptography {
  /** `key`: 16, 24 or 32 bytes. */
  aes(key: Uint8Array): BlockCipher
  /** Whether `digest` and `deriveKey` know this hash. */
  hasHash(hash: string): boolean
  digest(hash: string, data: Uint8Array): Uint8Array
  deriveKey(derivation: KeyDerivation): Uint8Array
  /** The number of iterations of `deriveKey` that take about this long. At least 1. */
  countIterations(options: { readonly hash: string; readonly length: number; readonly milliseconds: number }): number
  /** Cryptographically random bytes. */
  random(length: number): Uint8Array
  /** Whether both have the same bytes, in a time that does not depend on them. They have the same length. */
  equal(first: Uint8Array, second: Uint8Array): boolean
}

export const CRYPTOGRAPHY_RULES: Rules<Cryptography> = {
  aes: "function", hasHash: "function", digest: "function", deriveKey: "function", countIterations: "function", random: "function",
  equal: "function",
}
