/** The passphrase of an encrypted image, or a function that returns it. */
import { described } from "../../options.ts"
import { BackingError } from "../backing.ts"
import { encodeText } from "../bytes/fields.ts"

/** Text is encoded as UTF-8. For a key file, pass all of its bytes, including a line end. */
export type Passphrase = string | Uint8Array

/** The image whose passphrase is needed. */
export interface EncryptedImage {
  readonly path: string
  /** "aes": the old encryption of qcow2, which cannot detect a wrong passphrase. */
  readonly encryption: "luks" | "aes"
}

/** One passphrase for all encrypted images of a chain, or a function that returns the passphrase of each. */
export type PassphraseOption = Passphrase | ((image: EncryptedImage) => Passphrase)

/** Like `PassphraseOption`, but the function may return a promise. */
export type LatePassphraseOption = Passphrase | ((image: EncryptedImage) => Passphrase | Promise<Passphrase>)

export function passphraseBytes(passphrase: Passphrase): Uint8Array {
  return typeof passphrase === "string" ? encodeText(passphrase) : passphrase
}

/** The passphrase for `image`. @throws BackingError `invalid-argument` when there is none @throws TypeError when it has a wrong type */
export function askPassphrase<P>(option: Passphrase | ((image: EncryptedImage) => P) | undefined, image: EncryptedImage): Passphrase | P {
  if (option !== undefined) return typeof option === "function" ? option(image) : option
  const kind = image.encryption === "luks" ? "LUKS" : "AES"
  throw new BackingError("invalid-argument", `the image is encrypted (${kind}); a passphrase is needed to open it`, { path: image.path })
}

/** @throws TypeError for an option `passphrase` of the function `who` that has a wrong type */
export function checkPassphrase(who: string, option: unknown, name = "passphrase"): void {
  if (option === undefined || typeof option === "function") return
  checkAnswer(who, option, name)
}

/** @throws TypeError for a passphrase of a wrong type */
export function checkAnswer(who: string, passphrase: unknown, name = "passphrase"): asserts passphrase is Passphrase {
  if (typeof passphrase === "string" || passphrase instanceof Uint8Array) return
  throw new TypeError(`${who}: ${name} must be a string or a Uint8Array, not ${described(passphrase)}`)
}
