/** nodeCryptography: the cryptography of encrypted images, by node:crypto. */
import {
  type Cipher, createCipheriv, createDecipheriv, createHash, type Decipher, getHashes, pbkdf2, pbkdf2Sync, randomBytes, randomFillSync,
  timingSafeEqual,
} from "node:crypto"
import { cpuUsage } from "node:process"
import { unlessStopped } from "../../turns.ts"
import type { BlockCipher, Cryptography, KeyDerivation } from "../luks/cryptography.ts"
import { LateCryptography } from "../luks/late-cryptography.ts"

/** Iterations of the first trial; more if it is too fast to measure. */
const FIRST_TRIAL = 1 << 12
/** Minimum of milliseconds of a valid trial. */
const TRIAL_MILLISECONDS = 20

/**
 * Reuses one OpenSSL object for each direction, because ECB has no state. A new one for each call takes 3 us (measured).
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

/** The cryptography of encrypted images by `node:crypto`, for your own `openQcow2` or `openDisk`. */
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
    // CPU time: on a busy host, wall-clock time would give too few iterations.
    const before = cpuUsage()
    deriveKey({ hash, passphrase: salt, salt, iterations, length })
    const { user, system } = cpuUsage(before)
    const spent = (user + system) / 1000
    if (spent >= TRIAL_MILLISECONDS || iterations >= 2 ** 26) return Math.max(1, Math.round((iterations * milliseconds) / spent))
  }
}

/**
 * The same, for opening or making a single image; keys are derived on a thread of libuv's pool. A derivation that is stopped goes on there,
 * unheard.
 */
export class LateNodeCryptography extends LateCryptography {
  /** Iterations that were counted, because a repeated call must get the same number. */
  readonly #counted = new Map<string, number>()

  aes(key: Uint8Array): BlockCipher {
    return nodeCryptography.aes(key)
  }

  hasHash(hash: string): boolean {
    return nodeCryptography.hasHash(hash)
  }

  digest(hash: string, data: Uint8Array): Uint8Array {
    return nodeCryptography.digest(hash, data)
  }

  countIterations(options: { readonly hash: string; readonly length: number; readonly milliseconds: number }): number {
    const name = JSON.stringify(options)
    const counted = this.#counted.get(name) ?? countIterations(options)
    this.#counted.set(name, counted)
    return counted
  }

  equal(first: Uint8Array, second: Uint8Array): boolean {
    return nodeCryptography.equal(first, second)
  }

  protected override derive({ hash, passphrase, salt, iterations, length }: KeyDerivation): Promise<Uint8Array> {
    const derived = new Promise<Uint8Array>((resolve, reject) => {
      pbkdf2(passphrase, salt, iterations, length, hash, (error, key) => (error === null ? resolve(key) : reject(error)))
    })
    return unlessStopped(derived, this.signal)
  }

  protected override draw(bytes: Uint8Array): void {
    randomFillSync(bytes)
  }
}
