/** Opens a raw LUKS image: a header, key material, and the encrypted disk behind them. */
import { BackingError } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"
import type { Cryptography } from "./cryptography.ts"
import { EncryptedFile } from "./encrypted-file.ts"
import { makeCipher } from "./make-cipher.ts"
import type { Passphrase } from "./passphrase.ts"
import { unlockVolume } from "./volume.ts"

export interface UnlockFileOptions {
  readonly passphrase: Passphrase
  /** Undefined where the platform has none. */
  readonly cryptography: Cryptography | undefined
}

/**
 * The disk in a LUKS image, which owns `file` from then on; when this throws, the caller still does.
 * @throws BackingError as `unlockVolume`, and `unsupported` where the platform has no cryptography
 */
export function unlockFile(file: ImageFile, { passphrase, cryptography }: UnlockFileOptions): EncryptedFile {
  const known = requireCryptography(cryptography, file.path)
  const { header, key } = unlockVolume({ file, offset: 0, length: file.size() }, { passphrase, cryptography: known })
  return new EncryptedFile(file, { payloadOffset: header.payloadOffset, cipher: makeCipher(header.cipher, key, known) })
}

/** @throws BackingError `unsupported` where the platform has no cryptography */
export function requireCryptography(cryptography: Cryptography | undefined, path: string): Cryptography {
  if (cryptography !== undefined) return cryptography
  const remedy = "use Node, or pass the option cryptography"
  throw new BackingError("unsupported", `the image is encrypted, and this platform has no AES that answers at once: ${remedy}`, { path })
}
