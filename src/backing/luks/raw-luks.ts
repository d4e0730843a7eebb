/** Opens and makes raw LUKS images: a header, key material, and then the encrypted disk. */
import { BackingError } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"
import type { Cryptography } from "./cryptography.ts"
import { EncryptedFile } from "./encrypted-file.ts"
import { makeCipher } from "./make-cipher.ts"
import { checkLuksOptions, type LuksOptions, makeVolume } from "./new-volume.ts"
import type { Passphrase } from "./passphrase.ts"
import { LOCKED_CIPHER } from "./sector-cipher.ts"
import { readLuksHeader, unlockVolume } from "./volume.ts"

export interface UnlockFileOptions {
  readonly passphrase: Passphrase
  /** Undefined if the platform has none. */
  readonly cryptography: Cryptography | undefined
}

/**
 * The disk in a LUKS image. It owns `file` from then on, unless this throws.
 * @throws BackingError as `unlockVolume`, and `unsupported` if the platform has no cryptography
 */
export function unlockFile(file: ImageFile, { passphrase, cryptography }: UnlockFileOptions): EncryptedFile {
  const known = requireCryptography(cryptography, file.path)
  const { header, key } = unlockVolume({ file, offset: 0, length: file.size() }, { passphrase, cryptography: known })
  return new EncryptedFile(file, { payloadOffset: header.payloadOffset, cipher: makeCipher(header.cipher, key, known) })
}

/** The disk in a LUKS image without its key: only the size is usable. Owns `file` like `unlockFile`. @throws like `unlockFile` */
export function lockedFile(file: ImageFile): EncryptedFile {
  const { payloadOffset } = readLuksHeader({ file, offset: 0, length: file.size() })
  return new EncryptedFile(file, { payloadOffset, cipher: LOCKED_CIPHER })
}

export interface NewVolumeOptions {
  /** Bytes of the disk, a multiple of 512. */
  readonly size: number
  readonly encryption: LuksOptions | undefined
}

/**
 * Makes a LUKS image in `file`, which is empty. The disk reads as undefined bytes until it is written. The header is written last.
 * @throws BackingError `invalid-argument` for options that contradict each other; `unsupported` for a hash that the platform lacks
 */
export function writeVolume(file: ImageFile, { size, encryption }: NewVolumeOptions, cryptography: Cryptography): void {
  if (encryption === undefined) {
    throw new BackingError("invalid-argument", "a LUKS image needs the option encryption, with a passphrase", { path: file.path })
  }
  checkLuksOptions("createImage", encryption)
  const volume = makeVolume(encryption, cryptography, file.path)
  file.truncate(volume.length + size)
  for (const { bytes, offset } of [...volume.pieces].reverse()) {
    file.write(bytes, offset)
    file.sync()
  }
}

/** @throws BackingError `unsupported` if the platform has no cryptography */
export function requireCryptography(cryptography: Cryptography | undefined, path: string): Cryptography {
  if (cryptography !== undefined) return cryptography
  const remedy = "use openDisk or createDisk, which wait for it, or pass the option cryptography"
  const message = `the image is encrypted, and a page cannot derive its key synchronously; ${remedy}`
  throw new BackingError("unsupported", message, { path })
}
