/** The block cipher of a name, with a key: AES is the platform's work, and as fast as that is; the others are done here. */
import type { CipherName } from "../cipher-spec.ts"
import type { BlockCipher, Cryptography } from "../cryptography.ts"
import { Serpent } from "./serpent.ts"
import { Twofish } from "./twofish.ts"

/** `key`: 16, 24 or 32 bytes. */
export function makeBlockCipher(name: CipherName, key: Uint8Array, cryptography: Cryptography): BlockCipher {
  switch (name) {
    case "aes":
      return cryptography.aes(key)
    case "serpent":
      return new Serpent(key)
    case "twofish":
      return new Twofish(key)
  }
}
