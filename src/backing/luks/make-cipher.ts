/**
 * makeCipher makes the cipher of a specification. Every mode is built on a block cipher, so that a whole run of sectors is one call into
 * the platform: a call with an IV for each sector takes four times as long (measured, node:crypto).
 */
import { BackingError } from "../backing.ts"
import { CbcCipher } from "./modes/cbc-cipher.ts"
import { BLOCK_BYTES, type CipherSpec } from "./cipher-spec.ts"
import { makeBlockCipher } from "./ciphers/make-block-cipher.ts"
import { CtrCipher, EcbCipher } from "./modes/plain-modes.ts"
import type { BlockCipher, Cryptography } from "./cryptography.ts"
import { ivSource } from "./modes/iv-generator.ts"
import type { SectorCipher } from "./sector-cipher.ts"
import { XtsCipher } from "./modes/xts-cipher.ts"

/** @throws BackingError `unsupported` on a big-endian host, because the modes use little-endian words */
export function makeCipher(spec: CipherSpec, key: Uint8Array, cryptography: Cryptography): SectorCipher {
  if (new Uint8Array(Uint32Array.of(1).buffer)[0] !== 1) {
    throw new BackingError("unsupported", "encrypted images cannot be opened on a big-endian host")
  }
  const half = key.length / 2
  const keyed = (part: Uint8Array): BlockCipher => makeBlockCipher(spec.name, part, cryptography)
  const blockBytes = BLOCK_BYTES[spec.name]
  const ivs = ivSource(spec, key, cryptography)
  switch (spec.mode) {
    case "xts":
      return new XtsCipher({ data: keyed(key.subarray(0, half)), tweak: keyed(key.subarray(half)), ivs })
    case "cbc":
      return new CbcCipher(keyed(key), { ivs, blockBytes })
    case "ctr":
      return new CtrCipher(keyed(key), { ivs, blockBytes })
    case "ecb":
      return new EcbCipher(keyed(key))
  }
}
