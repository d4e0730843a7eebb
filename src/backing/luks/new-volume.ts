/** Makes a new LUKS volume: a random key, encrypted with a passphrase in key slot 0. The layout is QEMU's (QC-LUKS-07). */
import { checkCount, checkOptions, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import { CIPHER_NAMES, type CipherSpec, type IvGenerator, modeText, parseCipherSpec } from "./cipher-spec.ts"
import type { Cryptography } from "./cryptography.ts"
import {
  DIGEST_LENGTH, FIRST_MATERIAL, type KeySlot, type LuksHeader, MATERIAL_ALIGNMENT, MOST_ITERATIONS, SALT_LENGTH, serialiseLuksHeader,
  SLOT_COUNT, STRIPES,
} from "./header.ts"
import { keyDigest, sealKey } from "./key-slots.ts"
import { makeCipher } from "./make-cipher.ts"
import { checkAnswer, type Passphrase, passphraseBytes } from "./passphrase.ts"
import type { SectorCipher } from "./sector-cipher.ts"
import { refuseMissingHash } from "./volume.ts"

/** Ciphers with the bits of one key, in QEMU's spelling. All except AES run in JavaScript, at 10 to 30 MB/s. */
export const CIPHERS = [
  "aes-128", "aes-192", "aes-256", "serpent-128", "serpent-192", "serpent-256", "twofish-128", "twofish-192", "twofish-256",
  "cast5-128",
] as const

/** Options of a new LUKS volume, in QEMU's words. */
export interface LuksOptions {
  /** Opens the new image, by key slot 0. */
  readonly passphrase: Passphrase
  /** Default "aes-256". */
  readonly cipher?: (typeof CIPHERS)[number]
  /** Default "xts", or "cbc" for CAST5, whose blocks are too short for XTS. ECB and CTR are missing: they do not keep a disk secret. */
  readonly mode?: "xts" | "cbc"
  /** Default "plain64". CBC needs "essiv". */
  readonly ivGenerator?: IvGenerator
  /** The hash of ESSIV, whose digest is a key of the cipher. Default "sha256", for CAST5 "md5". */
  readonly ivHash?: "sha256" | "md5"
  /** The hash of key derivation. Default "sha256". */
  readonly hash?: "sha1" | "sha224" | "sha256" | "sha384" | "sha512"
  /** Milliseconds of CPU time that one try of a passphrase takes. Default 2000. */
  readonly iterTime?: number
}

export const LUKS_RULES: Rules<LuksOptions> = {
  passphrase: "any", cipher: CIPHERS, mode: ["xts", "cbc"], ivGenerator: ["plain", "plain64", "essiv"],
  ivHash: ["sha256", "md5"], hash: ["sha1", "sha224", "sha256", "sha384", "sha512"], iterTime: "number?",
}

const FEWEST_ITERATIONS = 1000
const DEFAULT_ITER_TIME = 2000

export interface NewVolume {
  /** Bytes of header and key material, up to the payload. */
  readonly length: number
  /** Their content, as pieces at offsets from the start of the volume; the rest is zeroes. */
  readonly pieces: readonly { readonly offset: number; readonly bytes: Uint8Array }[]
  readonly cipher: SectorCipher
}

/** @throws TypeError for a wrong option */
export function checkLuksOptions(who: string, options: LuksOptions): void {
  checkOptions(who, options, LUKS_RULES)
  checkAnswer(who, options.passphrase, "passphrase of the encryption")
  checkCount(who, "iterTime", options.iterTime, 1)
}

/** Bytes of the header and the key material of a new volume. @throws BackingError as `makeVolume` */
export function volumeOverhead(options: Omit<LuksOptions, "passphrase">, path: string): number {
  return FIRST_MATERIAL + SLOT_COUNT * slotBytes(chooseCipher(options, path))
}

/** Distance in bytes between the key material of two slots. */
function slotBytes({ keyBytes }: CipherSpec): number {
  return Math.ceil((keyBytes * STRIPES) / MATERIAL_ALIGNMENT) * MATERIAL_ALIGNMENT
}

/** @throws BackingError `invalid-argument` for options that contradict each other; `unsupported` for a hash that the platform lacks */
export function makeVolume(options: LuksOptions, cryptography: Cryptography, path: string): NewVolume {
  const { hash = "sha256", iterTime = DEFAULT_ITER_TIME } = options
  const cipher = chooseCipher(options, path)
  refuseMissingHash({ hash, cipher }, cryptography, path)
  const count = (length: number, milliseconds: number): number => {
    const counted = cryptography.countIterations({ hash, length, milliseconds })
    return Math.min(Math.max(counted, FEWEST_ITERATIONS), MOST_ITERATIONS)
  }
  const key = cryptography.random(cipher.keyBytes)
  // Each try also computes the digest, to which QEMU and cryptsetup give an eighth of the time.
  const checked = { hash, digestSalt: cryptography.random(SALT_LENGTH), digestIterations: count(DIGEST_LENGTH, iterTime / 8) }
  const distance = slotBytes(cipher)
  const unused: KeySlot[] = Array.from({ length: SLOT_COUNT }, (_, slot) => ({
    isActive: false, iterations: 0, salt: new Uint8Array(SALT_LENGTH), materialOffset: FIRST_MATERIAL + slot * distance,
  }))
  const first: KeySlot = {
    isActive: true, iterations: count(cipher.keyBytes, iterTime), salt: cryptography.random(SALT_LENGTH), materialOffset: FIRST_MATERIAL,
  }
  const header: LuksHeader = {
    cipher, ...checked, payloadOffset: FIRST_MATERIAL + SLOT_COUNT * distance, digest: keyDigest(key, checked, cryptography),
    uuid: makeUuid(cryptography), slots: [first, ...unused.slice(1)],
  }
  const { salt, iterations } = first
  const material = sealKey(key, { header, passphrase: passphraseBytes(options.passphrase), salt, iterations, cryptography })
  return {
    length: header.payloadOffset,
    pieces: [{ offset: 0, bytes: serialiseLuksHeader(header) }, { offset: FIRST_MATERIAL, bytes: material }],
    cipher: makeCipher(cipher, key, cryptography),
  }
}

function chooseCipher(options: Omit<LuksOptions, "passphrase">, path: string): CipherSpec {
  const { cipher = "aes-256" } = options
  const isCast5 = cipher === "cast5-128"
  const { mode = isCast5 ? "cbc" : "xts", ivGenerator = mode === "cbc" ? "essiv" : "plain64" } = options
  const refuse = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
  if (ivGenerator !== "essiv" && options.ivHash !== undefined) throw refuse(`the IV generator ${ivGenerator} takes no hash`)
  if (mode === "cbc" && ivGenerator !== "essiv") {
    throw refuse(`CBC with the IV generator ${ivGenerator} does not keep a disk secret; use essiv`)
  }
  const [family = "", bits = ""] = cipher.split("-")
  const name = CIPHER_NAMES.find((known) => known === family) ?? "aes"
  const ivHash = ivGenerator === "essiv" ? (options.ivHash ?? (isCast5 ? "md5" : "sha256")) : undefined
  const spec: CipherSpec = { name, mode, ivGenerator, ivHash, keyBytes: (mode === "xts" ? 2 : 1) * (Number(bits) / 8) }
  const checked = parseCipherSpec(name, modeText(spec), spec.keyBytes)
  if (typeof checked === "string") throw refuse(checked)
  return checked
}

/** A random UUID: RFC 9562, 5.4 */
function makeUuid(cryptography: Cryptography): string {
  const bytes = cryptography.random(16)
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80
  const text = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")
  return text.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-")
}
