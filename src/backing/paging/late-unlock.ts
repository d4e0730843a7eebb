/** Unlocks encrypted images whose file, or whose passphrase, may be asynchronous. */
import type { ImageFile } from "../image-file.ts"
import type { Cryptography } from "../luks/cryptography.ts"
import { askPassphrase, checkAnswer, type EncryptedImage, type LatePassphraseOption, type Passphrase } from "../luks/passphrase.ts"
import { unlockFile } from "../luks/raw-luks.ts"
import type { ImageCipher } from "../qcow2/encrypted-data.ts"
import { encryptedImage, unlockImage } from "../qcow2/encryption.ts"
import { readHeader } from "../qcow2/format/parse-header.ts"
import { untilLoaded, type Waits } from "./until-loaded.ts"

export interface LateUnlockOptions {
  readonly passphrase: LatePassphraseOption | undefined
  readonly cryptography: Cryptography | undefined
  /** What to await before each step. */
  readonly waits: Waits
}

/**
 * The cipher of a qcow2 image; undefined if the image is not encrypted. It is separate from opening the image, which is repeated for each
 * missing page, because deriving a key takes seconds.
 */
export async function unlockImageLater(file: ImageFile, options: LateUnlockOptions): Promise<ImageCipher | undefined> {
  const header = await untilLoaded(() => readHeader(file), options.waits)
  const image = encryptedImage(header, file.path)
  if (image === undefined) return undefined
  const passphrase = await ask(image, options)
  return await untilLoaded(() => unlockImage(file, header, { passphrase, cryptography: options.cryptography }), options.waits)
}

/** The disk in a raw LUKS image. */
export async function unlockFileLater(file: ImageFile, options: LateUnlockOptions): Promise<ImageFile> {
  const passphrase = await ask({ path: file.path, encryption: "luks" }, options)
  return await untilLoaded(() => unlockFile(file, { passphrase, cryptography: options.cryptography }), options.waits)
}

async function ask(image: EncryptedImage, options: LateUnlockOptions): Promise<Passphrase> {
  const answer = await askPassphrase(options.passphrase, image)
  checkAnswer("openDisk", answer, "what the option passphrase returned")
  return answer
}
