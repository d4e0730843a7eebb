/** The keys of `-o` for encryption of a new image, as qemu-img spells them: with the prefix "encrypt." for qcow2. */
import { CIPHERS, type LuksOptions } from "../../backing/luks/new-volume.ts"
import { type Arguments, UsageError } from "./arguments.ts"
import type { KeyValues } from "./key-values.ts"
import { passphraseOf } from "./secrets.ts"

/** The keys of a raw LUKS image, with their help. */
export const LUKS_KEYS: Readonly<Record<string, string>> = {
  "cipher-alg": `${CIPHERS.join("|")}  default aes-256`,
  "cipher-mode": "xts|cbc  default xts, of cast5-128 cbc",
  "hash-alg": "sha1|sha224|sha256|sha384|sha512  hash of key derivation; default sha256",
  "iter-time": "N  duration in milliseconds of trying the passphrase; default 2000",
  "ivgen-alg": "plain|plain64|essiv  default plain64, or essiv with cbc",
  "ivgen-hash-alg": "sha256|md5  of essiv; default sha256, of cast5-128 md5",
  "key-secret": "ID  the --object with the passphrase; or use --passphrase-file",
}

/** The same of a qcow2 image. */
export const ENCRYPT_KEYS: Readonly<Record<string, string>> = {
  "encrypt.format": "luks  encrypt the guest's data",
  ...Object.fromEntries(Object.entries(LUKS_KEYS).map(([key, meaning]) => [`encrypt.${key}`, meaning])),
}

/** The encryption that the keys with this prefix request. @throws UsageError */
export function encryptionOf(given: Arguments, keys: KeyValues, prefix: "" | "encrypt."): LuksOptions | undefined {
  const isWanted = prefix === "" || keys.choice("encrypt.format", ["luks"]) !== undefined
  const stray = Object.keys(LUKS_KEYS).find((key) => keys.text(`${prefix}${key}`) !== undefined)
  if (!isWanted && stray !== undefined) throw new UsageError(`-o ${prefix}${stray} needs -o encrypt.format=luks`)
  if (!isWanted) return undefined
  const [cipher, mode] = [
    keys.choice(`${prefix}cipher-alg`, CIPHERS), keys.choice(`${prefix}cipher-mode`, ["xts", "cbc"]),
  ]
  const [ivGenerator, ivHash] = [
    keys.choice(`${prefix}ivgen-alg`, ["plain", "plain64", "essiv"]), keys.choice(`${prefix}ivgen-hash-alg`, ["sha256", "md5"]),
  ]
  const hash = keys.choice(`${prefix}hash-alg`, ["sha1", "sha224", "sha256", "sha384", "sha512"])
  const iterTime = keys.count(`${prefix}iter-time`)
  return {
    passphrase: passphraseOf(given, keys.text(`${prefix}key-secret`), { isNew: true })({ path: "the new image", encryption: "luks" }),
    ...(cipher !== undefined && { cipher }),
    ...(mode !== undefined && { mode }),
    ...(ivGenerator !== undefined && { ivGenerator }),
    ...(ivHash !== undefined && { ivHash }),
    ...(hash !== undefined && { hash }),
    ...(iterTime !== undefined && { iterTime }),
  }
}
