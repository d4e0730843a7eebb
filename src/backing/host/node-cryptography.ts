/** nodeCryptography: what encrypted images need, by node:crypto. */
import {
  type Cipher, createCipheriv, createDecipheriv, createHash, type Decipher, getHashes, pbkdf2Sync, randomBytes, timingSafeEqual,
} from "node:crypto"
import { cpuUsage } from "node:process"
import type { BlockCipher, Cryptography, KeyDerivation } from "../luks/cryptography.ts"

/** Iterations that are timed first; more where they take no time that can be measured. */
const FIRST_TRIAL = 1 << 12
/** Milliseconds that a trial must take to be believed. */
const TRIAL_MILLISECONDS = 20

/**
 * One OpenSSL object for each direction is used for ever: ECB keeps nothing from call to call. A new one for each call costs 3 us
 * (measured).
 */
class NodeAes implements BlockCipher {
  readonly #cipher: Cipher
  readonly #decipher: Decipher

  constructor(key: Uint8Array) {
    const name = `aes-${key.length * 8}-ecb`
    this.#cipher = createCipheriv(name, key, null).setAutoPadding(false)
    this.#decipher = createDecipheriv(name, key, null).setAutoPadding(false)
  }

  encrypt(blocks: Uint8Array): Uint8Array {
    return this.#cipher.update(blocks)
  }

  decrypt(blocks: Uint8Array): Uint8Array {
    return this.#decipher.update(blocks)
  }
}

/** What encrypted images need, by `node:crypto`: for an `openQcow2` or `openDisk` of your own. */
export const nodeCryptography: Cryptography = {
  aes: (key) => new NodeAes(key),
  hasHash: (hash) => getHashes().includes(hash),
  digest: (hash, data) => createHash(hash).update(data).digest(),
  deriveKey,
  countIterations,
  random: (length) => randomBytes(length),
  equal: timingSafeEqual,
}

function deriveKey({ hash, passphrase, salt, iterations, length }: KeyDerivation): Uint8Array {
  return pbkdf2Sync(passphrase, salt, iterations, length, hash)
}

function countIterations({ hash, length, milliseconds }: { hash: string; length: number; milliseconds: number }): number {
  const salt = new Uint8Array(32)
  for (let iterations = FIRST_TRIAL; ; iterations *= 4) {
    // Time of the processor: a busy host would make keys that are cheaper to try.
    const before = cpuUsage()
    deriveKey({ hash, passphrase: salt, salt, iterations, length })
    const { user, system } = cpuUsage(before)
    const spent = (user + system) / 1000
    if (spent >= TRIAL_MILLISECONDS || iterations >= 2 ** 26) return Math.max(1, Math.round((iterations * milliseconds) / spent))
  }
}
