/** What opens an encrypted image: a passphrase, or who is asked for it. */
import { described } from "../../options.ts"
import { BackingError } from "../backing.ts"

/** Text counts as UTF-8. A key file is its bytes, all of them: a line end belongs to it. */
export type Passphrase = string | Uint8Array

/** The image that asks for its passphrase. */
export interface EncryptedImage {
  readonly path: string
  /** "aes": the old encryption of qcow2, which cannot tell a wrong passphrase. */
  readonly encryption: "luks" | "aes"
}

/** One passphrase for all encrypted images of a chain, or what says it for each. */
export type PassphraseOption = Passphrase | ((image: EncryptedImage) => Passphrase)

/** As `PassphraseOption`, where the answer may come later. */
export type LatePassphraseOption = Passphrase | ((image: EncryptedImage) => Passphrase | Promise<Passphrase>)

const encoder = new TextEncoder()

export function passphraseBytes(passphrase: Passphrase): Uint8Array {
  return typeof passphrase === "string" ? encoder.encode(passphrase) : passphrase
}

/** The passphrase for `image`. @throws BackingError `invalid-argument` when there is none @throws TypeError when it is none */
export function askPassphrase<P>(option: Passphrase | ((image: EncryptedImage) => P) | undefined, image: EncryptedImage): Passphrase | P {
  if (option !== undefined) return typeof option === "function" ? option(image) : option
  const kind = image.encryption === "luks" ? "LUKS" : "AES"
  throw new BackingError("invalid-argument", `the image is encrypted (${kind}); a passphrase is needed to open it`, { path: image.path })
}

/** @throws TypeError for an option `passphrase`, of the function `who`, that is none */
export function checkPassphrase(who: string, option: unknown, name = "passphrase"): void {
  if (option === undefined || typeof option === "function") return
  checkAnswer(who, option, name)
}

/** @throws TypeError for a passphrase that is none */
export function checkAnswer(who: string, passphrase: unknown, name = "passphrase"): asserts passphrase is Passphrase {
  if (typeof passphrase === "string" || passphrase instanceof Uint8Array) return
  throw new TypeError(`${who}: ${name} must be a string or a Uint8Array, not ${described(passphrase)}`)
}
