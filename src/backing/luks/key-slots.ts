/** Key slots: encrypts the volume's key with a passphrase, and decrypts it. [LUKS1] 3.2 and 3.3 */
import { BackingError } from "../backing.ts"
import { isEqual } from "../bytes/buffers.ts"
import { mergeKey, splitKey } from "./af-splitter.ts"
import { DIGEST_BYTES } from "./cipher-spec.ts"
import type { Cryptography } from "./cryptography.ts"
import { DIGEST_LENGTH, type HeaderPlace, type KeySlot, type LuksHeader, materialBytes, MOST_ITERATIONS, STRIPES } from "./header.ts"
import { makeCipher } from "./make-cipher.ts"

/**
 * Iterations that trying one passphrase may cost in all, a minute or two of node:crypto: eight slots of a usual image take less. A key that
 * is longer than a digest takes all of its iterations for each digest in it: 64 bytes by SHA-1 cost four times those of the header.
 */
const MOST_IN_ALL = 4 * MOST_ITERATIONS

/** Reads `length` bytes of the header area, from byte `offset` on. */
export type ReadArea = (offset: number, length: number) => Uint8Array

/** A slot that the passphrase opens. */
export interface OpenedSlot {
  readonly slot: number
  /** The volume's key. */
  readonly key: Uint8Array
}

export interface OpenSlotOptions {
  readonly header: LuksHeader
  readonly passphrase: Uint8Array
  readonly read: ReadArea
  readonly cryptography: Cryptography
  readonly place: HeaderPlace
  /** Try only this slot. Default: all active ones. */
  readonly only?: number
}

/**
 * The first active slot that the passphrase opens. All key material is read before the first derivation, which may take seconds, because
 * with an asynchronous file the call is repeated after each read.
 * @throws BackingError `permission` when the passphrase opens no slot; `unsupported` when trying would take too long
 */
export function openSlot(options: OpenSlotOptions): OpenedSlot {
  const { header, read, place } = options
  const active = header.slots.flatMap((found, slot) => (found.isActive && slot === (options.only ?? slot) ? [{ ...found, slot }] : []))
  const perSlot = costOf(header.digestIterations, DIGEST_LENGTH, header)
  const iterations = active.reduce((sum, slot) => sum + costOf(slot.iterations, header.cipher.keyBytes, header) + perSlot, 0)
  if (iterations > MOST_IN_ALL) {
    const message = `its key slots take ${iterations} iterations of key derivation, more than the limit of ${MOST_IN_ALL}`
    throw new BackingError("unsupported", message, place)
  }
  const tried = active.map((slot) => ({ ...slot, material: read(slot.materialOffset, materialBytes(header)) }))
  for (const { slot, material, ...found } of tried) {
    const key = tryOpen(found, material, options)
    if (key !== undefined) return { slot, key }
  }
  const where = active.length === 0 ? "there is no active key slot" : `it opens none of the active key slots (${slotList(active)})`
  throw new BackingError("permission", `the passphrase is wrong: ${where}`, { path: place.path })
}

/** The iterations that deriving `length` bytes takes. RFC 8018 5.2 */
function costOf(iterations: number, length: number, { hash }: LuksHeader): number {
  return iterations * Math.ceil(length / (DIGEST_BYTES.get(hash) ?? 1))
}

function slotList(slots: readonly { readonly slot: number }[]): string {
  return slots.map(({ slot }) => slot).join(", ")
}

function tryOpen(slot: KeySlot, material: Uint8Array, { header, passphrase, cryptography }: OpenSlotOptions): Uint8Array | undefined {
  const { cipher, hash } = header
  const { salt, iterations } = slot
  const slotKey = cryptography.deriveKey({ hash, passphrase, salt, iterations, length: cipher.keyBytes })
  const key = keyIn(material, slotKey, { header, cryptography })
  return cryptography.equal(keyDigest(key, header, cryptography), header.digest) ? key : undefined
}

/**
 * The keys that slot keys have decrypted. With a page's cryptography, the call is repeated after each derivation, with the same slot keys:
 * without this cache, each of eight slots would be decrypted and merged up to sixteen times, at some 50 ms each.
 */
const keysIn = new WeakMap<Uint8Array, { readonly material: Uint8Array; readonly key: Uint8Array }>()

/** The key in the material, if the slot key is right. */
function keyIn(
  material: Uint8Array, slotKey: Uint8Array, { header, cryptography }: Pick<OpenSlotOptions, "header" | "cryptography">,
): Uint8Array {
  const known = keysIn.get(slotKey)
  if (known !== undefined && isEqual(known.material, material)) return known.key
  const { cipher, hash } = header
  const stripes = material.slice()
  makeCipher(cipher, slotKey, cryptography).decrypt(stripes, 0)
  const key = mergeKey(stripes, cipher.keyBytes, { hash, stripes: STRIPES, cryptography })
  keysIn.set(slotKey, { material, key })
  return key
}

/** The digest of the volume's key that the header stores, to recognise the key. */
export function keyDigest(
  key: Uint8Array,
  { hash, digestSalt, digestIterations }: Pick<LuksHeader, "hash" | "digestSalt" | "digestIterations">, cryptography: Cryptography,
): Uint8Array {
  return cryptography.deriveKey({ hash, passphrase: key, salt: digestSalt, iterations: digestIterations, length: DIGEST_LENGTH })
}

export interface SealOptions {
  readonly header: Pick<LuksHeader, "cipher" | "hash">
  readonly passphrase: Uint8Array
  readonly salt: Uint8Array
  readonly iterations: number
  readonly cryptography: Cryptography
}

/** The key material of a slot that the passphrase opens. */
export function sealKey(key: Uint8Array, { header, passphrase, salt, iterations, cryptography }: SealOptions): Uint8Array {
  const { cipher, hash } = header
  const slotKey = cryptography.deriveKey({ hash, passphrase, salt, iterations, length: cipher.keyBytes })
  const material = splitKey(key, { hash, stripes: STRIPES, cryptography })
  makeCipher(cipher, slotKey, cryptography).encrypt(material, 0)
  return material
}
