/**
 * LateCryptography: cryptography whose keys are derived later, without holding the thread. A derivation that is not done yet throws
 * `NotLoaded`, and the caller repeats the call.
 */
import { throwIfStopped, type StopSignal } from "../../turns.ts"
import { NotLoaded } from "../async-image-file.ts"
import { isEqual } from "../bytes/buffers.ts"
import type { BlockCipher, Cryptography, KeyDerivation } from "./cryptography.ts"

/** For opening or making a single image, because it keeps the keys that it derives. `signal` stops its derivations. */
export abstract class LateCryptography implements Cryptography {
  protected readonly signal: StopSignal | undefined
  readonly #derived: { readonly derivation: KeyDerivation; readonly key: Uint8Array }[] = []
  /** The results of `random`, for repeated calls. */
  readonly #drawn: Uint8Array[] = []
  #draws = 0

  constructor(signal?: StopSignal) {
    this.signal = signal
  }

  abstract aes(key: Uint8Array): BlockCipher
  abstract hasHash(hash: string): boolean
  abstract digest(hash: string, data: Uint8Array): Uint8Array
  abstract countIterations(options: { readonly hash: string; readonly length: number; readonly milliseconds: number }): number
  abstract equal(first: Uint8Array, second: Uint8Array): boolean
  /** Rejects with the signal's reason when it is aborted. */
  protected abstract derive(derivation: KeyDerivation): Promise<Uint8Array>
  protected abstract draw(bytes: Uint8Array): void

  /** Returns the same array each time for the same derivation. */
  deriveKey(derivation: KeyDerivation): Uint8Array {
    const found = this.#derived.find((one) => isSame(one.derivation, derivation))
    if (found !== undefined) return found.key
    throw this.later(async () => {
      throwIfStopped(this.signal)
      // Copies, because the caller's bytes may have changed when the answer comes.
      const kept = { ...derivation, passphrase: derivation.passphrase.slice(), salt: derivation.salt.slice() }
      this.#derived.push({ derivation: kept, key: await this.derive(kept) })
    })
  }

  /** A call that is repeated after `NotLoaded` gets the same bytes as the first time, in the same order. */
  random(length: number): Uint8Array {
    const drawn = this.#drawn[this.#draws] ?? new Uint8Array(length)
    if (this.#draws === this.#drawn.length) {
      this.draw(drawn)
      this.#drawn.push(drawn)
    }
    this.#draws++
    return drawn.slice()
  }

  protected later(load: () => Promise<void>): NotLoaded {
    this.#draws = 0
    return new NotLoaded(load)
  }
}

function isSame(first: KeyDerivation, second: KeyDerivation): boolean {
  return first.hash === second.hash && first.iterations === second.iterations && first.length === second.length &&
    isSameBytes(first.passphrase, second.passphrase) && isSameBytes(first.salt, second.salt)
}

function isSameBytes(first: Uint8Array, second: Uint8Array): boolean {
  return first.length === second.length && isEqual(first, second)
}
