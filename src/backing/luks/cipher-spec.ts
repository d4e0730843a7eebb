/**
 * CipherSpec: the cipher of a LUKS header, which names a cipher, a mode with an IV generator ("xts-plain64", "cbc-essiv:sha256"), and the
 * bytes of the key. [LUKS1] 7, as QEMU reads it.
 */

/** Bytes of a digest, by LUKS's name of the hash. */
export const DIGEST_BYTES: ReadonlyMap<string, number> = new Map([
  ["md5", 16], ["sha1", 20], ["ripemd160", 20], ["sha224", 28], ["sha256", 32], ["sha384", 48], ["sha512", 64],
])

/** The platform provides "aes"; the others are in `ciphers/`. */
export const CIPHER_NAMES = ["aes", "serpent", "twofish", "cast5"] as const
export type CipherName = (typeof CIPHER_NAMES)[number]

const MODES = ["xts", "cbc", "ecb", "ctr"] as const
export type CipherMode = (typeof MODES)[number]

/** "plain": the sector's number in 32 bits. "plain64": in 64 bits. "essiv": in 64 bits, encrypted with a hash of the key. */
const IV_GENERATORS = ["plain", "plain64", "essiv"] as const
export type IvGenerator = (typeof IV_GENERATORS)[number]

export interface CipherSpec {
  readonly name: CipherName
  readonly mode: CipherMode
  readonly ivGenerator: IvGenerator
  /** The hash of ESSIV. */
  readonly ivHash: string | undefined
  /** For XTS: of both keys together. */
  readonly keyBytes: number
}

/** Bytes of one key. */
const KEY_BYTES: Readonly<Record<CipherName, readonly number[]>> = {
  aes: [16, 24, 32], serpent: [16, 24, 32], twofish: [16, 24, 32], cast5: [16],
}

/** Bytes of a block, and of an IV. */
export const BLOCK_BYTES: Readonly<Record<CipherName, number>> = { aes: 16, serpent: 16, twofish: 16, cast5: 8 }

/** The specification in a header's words. Returns a string that says why if it cannot be used. */
export function parseCipherSpec(cipher: string, modeText: string, keyBytes: number): CipherSpec | string {
  const name = CIPHER_NAMES.find((known) => known === cipher)
  if (name === undefined) return `the cipher "${cipher}" is not supported; only ${CIPHER_NAMES.join(", ")} are`
  const [, modeName = "", generator = "", ivHash] = /^([^-]*)-([^:]*)(?::(.*))?$/.exec(modeText) ?? []
  const mode = MODES.find((known) => known === modeName)
  const ivGenerator = IV_GENERATORS.find((known) => known === generator)
  if (mode === undefined || ivGenerator === undefined) return `the cipher mode "${modeText}" is not supported`
  if (mode === "xts" && BLOCK_BYTES[name] !== 16) return `${name} has blocks of ${BLOCK_BYTES[name]} bytes, and mode xts needs 16`
  const single = singleKeyBytes({ mode, keyBytes })
  if (!KEY_BYTES[name].includes(single)) return `${name} in mode ${mode} cannot have a key of ${keyBytes} bytes`
  if (ivGenerator !== "essiv") return { name, mode, ivGenerator, ivHash: undefined, keyBytes }
  const digest = DIGEST_BYTES.get(ivHash ?? "")
  if (digest === undefined) return `the cipher mode "${modeText}" does not name a hash that is supported`
  // The digest is a key of the same cipher, of any size that the cipher allows, as in dm-crypt.
  if (!KEY_BYTES[name].includes(digest)) return `a digest of ${ivHash} has ${digest} bytes, and no key of ${name} has that length`
  return { name, mode, ivGenerator, ivHash, keyBytes }
}

/** Bytes of one key of the cipher. XTS has two keys. */
export function singleKeyBytes({ mode, keyBytes }: Pick<CipherSpec, "mode" | "keyBytes">): number {
  return mode === "xts" ? keyBytes / 2 : keyBytes
}

/** The mode in the header's words. */
export function modeText({ mode, ivGenerator, ivHash }: CipherSpec): string {
  return ivHash === undefined ? `${mode}-${ivGenerator}` : `${mode}-${ivGenerator}:${ivHash}`
}
