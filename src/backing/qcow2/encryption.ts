/** Unlocks an encrypted qcow2 image: LUKS, and the old AES. [QCOW2] "Full disk encryption header pointer"; QC-AES, QC-LUKS */
import type { ImageFile } from "../image-file.ts"
import type { Cryptography } from "../luks/cryptography.ts"
import { makeCipher } from "../luks/make-cipher.ts"
import { type EncryptedImage, type Passphrase, passphraseBytes } from "../luks/passphrase.ts"
import { requireCryptography } from "../luks/raw-luks.ts"
import { type LuksArea, unlockVolume } from "../luks/volume.ts"
import type { ImageCipher } from "./encrypted-data.ts"
import { encryptionArea, type Qcow2Header } from "./format/header.ts"
import { CRYPT_METHOD } from "./format/spec.ts"

/** The old AES has keys of 128 bits, which are the passphrase itself (QC-AES-02). */
const OLD_KEY_BYTES = 16

/** The data of a passphrase prompt, if the image is encrypted. */
export function encryptedImage(header: Qcow2Header, path: string): EncryptedImage | undefined {
  if (header.cryptMethod === CRYPT_METHOD.NONE) return undefined
  return { path, encryption: header.cryptMethod === CRYPT_METHOD.LUKS ? "luks" : "aes" }
}

/** The area of an image's LUKS header, if it has one. */
export function luksArea(file: LuksArea["file"], header: Qcow2Header): LuksArea | undefined {
  const area = encryptionArea(header)
  return area === undefined ? undefined : { file, ...area }
}

export interface UnlockImageOptions {
  readonly passphrase: Passphrase
  /** Undefined if the platform has none. */
  readonly cryptography: Cryptography | undefined
}

/**
 * The cipher of an encrypted image.
 * @throws BackingError `permission` for a wrong passphrase, which the old AES cannot detect; `invalid-format` or `unsupported` for an
 * unusable LUKS header; `unsupported` if the platform has no cryptography
 */
export function unlockImage(file: ImageFile, header: Qcow2Header, { passphrase, cryptography }: UnlockImageOptions): ImageCipher {
  const known = requireCryptography(cryptography, file.path)
  const area = luksArea(file, header)
  if (area !== undefined) {
    const volume = unlockVolume(area, { passphrase, cryptography: known })
    return { sectors: makeCipher(volume.header.cipher, volume.key, known), numberedBy: "host" }
  }
  const key = new Uint8Array(OLD_KEY_BYTES)
  key.set(passphraseBytes(passphrase).subarray(0, OLD_KEY_BYTES))
  const spec = { name: "aes", mode: "cbc", ivGenerator: "plain64", ivHash: undefined, keyBytes: OLD_KEY_BYTES } as const
  return { sectors: makeCipher(spec, key, known), numberedBy: "guest" }
}
