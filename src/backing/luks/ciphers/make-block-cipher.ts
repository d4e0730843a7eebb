/** Makes the block cipher of a name, with a key. The platform provides AES; the others are implemented here. */
import type { CipherName } from "../cipher-spec.ts"
import type { BlockCipher, Cryptography } from "../cryptography.ts"
import { Cast5 } from "./cast5.ts"
import { Serpent } from "./serpent.ts"
import { Twofish } from "./twofish.ts"

/** `key`: of a length that `parseCipherSpec` allows. */
export function makeBlockCipher(name: CipherName, key: Uint8Array, cryptography: Cryptography): BlockCipher {
  switch (name) {
    case "aes":
      return cryptography.aes(key)
    case "serpent":
      return new Serpent(key)
    case "twofish":
      return new Twofish(key)
    case "cast5":
      return new Cast5(key)
  }
}
