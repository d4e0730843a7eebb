/**
 * Cryptography: the arithmetic that encryption needs of the platform. `backing/host` has Node's. Web Crypto, which a page has, returns
 * promises, and knows neither XTS nor ECB: `PageCryptography` waits for its key derivation and does the rest here.
 */
import type { Rules } from "../../options.ts"

/**
 * A block cipher with its key. Both calls take whole blocks (AES: of 16 bytes), transform each by itself, and return as many bytes in an
 * array of their own.
 */
export interface BlockCipher {
  encrypt(blocks: Uint8Array): Uint8Array
  decrypt(blocks: Uint8Array): Uint8Array
}

/** What PBKDF2 is run with: RFC 8018 5.2, with HMAC of `hash`. */
export interface KeyDerivation {
  /** As LUKS spells it: "sha256". */
  readonly hash: string
  readonly passphrase: Uint8Array
  readonly salt: Uint8Array
  readonly iterations: number
  /** Bytes. */
  readonly length: number
}

/** What encrypted images need of the platform. Every call answers before it returns. */
export interface Cryptography {
  /** `key`: 16, 24 or 32 bytes. */
  aes(key: Uint8Array): BlockCipher
  /** Whether `digest` and `deriveKey` know this hash. */
  hasHash(hash: string): boolean
  digest(hash: string, data: Uint8Array): Uint8Array
  deriveKey(derivation: KeyDerivation): Uint8Array
  /** How many iterations of `deriveKey` take about that long here. At least 1. */
  countIterations(options: { readonly hash: string; readonly length: number; readonly milliseconds: number }): number
  /** Random bytes that nobody can guess. */
  random(length: number): Uint8Array
  /** Whether both are the same bytes, in a time that does not tell where they differ. They are of one length. */
  equal(first: Uint8Array, second: Uint8Array): boolean
}

export const CRYPTOGRAPHY_RULES: Rules<Cryptography> = {
  aes: "function", hasHash: "function", digest: "function", deriveKey: "function", countIterations: "function", random: "function",
  equal: "function",
}
