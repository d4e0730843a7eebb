/** The encryption parameters that can be read without a passphrase, under the names of `qemu-img info --output=json`. */
import type { ImageFile } from "../../../backing/image-file.ts"
import { singleKeyBytes } from "../../../backing/luks/cipher-spec.ts"
import { STRIPES } from "../../../backing/luks/header.ts"
import { type LuksArea, readLuksHeader } from "../../../backing/luks/volume.ts"
import { luksArea } from "../../../backing/qcow2/encryption.ts"
import type { Qcow2Header } from "../../../backing/qcow2/format/header.ts"
import { CRYPT_METHOD } from "../../../backing/qcow2/format/spec.ts"

export interface LuksFacts {
  readonly "ivgen-alg": string
  readonly "ivgen-hash-alg"?: string
  readonly "hash-alg": string
  readonly "cipher-alg": string
  readonly uuid: string
  readonly "cipher-mode": string
  readonly slots: readonly SlotFacts[]
  /** Bytes from the LUKS header on. */
  readonly "payload-offset": number
  readonly "master-key-iters": number
}

export interface SlotFacts {
  readonly active: boolean
  readonly iters?: number
  /** Bytes from the LUKS header on. */
  readonly "key-offset": number
  readonly stripes?: number
}

/** Of a qcow2 image. */
export type EncryptionFacts = { readonly format: "aes" } | (LuksFacts & { readonly format: "luks" })

/** @throws BackingError for a LUKS header that is wrong or not supported */
export function luksFacts(area: LuksArea): LuksFacts {
  const { cipher, hash, uuid, slots, payloadOffset, digestIterations } = readLuksHeader(area)
  return {
    "ivgen-alg": cipher.ivGenerator,
    "hash-alg": hash,
    "cipher-alg": `${cipher.name}-${singleKeyBytes(cipher) * 8}`,
    uuid,
    ...(cipher.ivHash !== undefined && { "ivgen-hash-alg": cipher.ivHash }),
    "cipher-mode": cipher.mode,
    slots: slots.map(({ isActive, iterations, materialOffset }) => ({
      active: isActive,
      ...(isActive && { iters: iterations }),
      "key-offset": materialOffset,
      ...(isActive && { stripes: STRIPES }),
    })),
    "payload-offset": payloadOffset,
    "master-key-iters": digestIterations,
  }
}

/** Undefined for an image that is not encrypted. @throws as `luksFacts` */
export function encryptionFacts(file: ImageFile, header: Qcow2Header): EncryptionFacts | undefined {
  if (header.cryptMethod === CRYPT_METHOD.NONE) return undefined
  const area = luksArea(file, header)
  if (area === undefined) return { format: "aes" }
  const { "cipher-mode": mode, slots, "payload-offset": payload, "master-key-iters": iterations, ...rest } = luksFacts(area)
  // The order of qemu-img's lines.
  return { ...rest, format: "luks", "cipher-mode": mode, slots, "payload-offset": payload, "master-key-iters": iterations }
}
