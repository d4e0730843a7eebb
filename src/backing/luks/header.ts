/** The LUKS1 header as a value, and its bytes. [LUKS1] 5; limits of QC-LUKS-06 */
import { viewOf } from "../bytes/fields.ts"
import { BackingError, type BackingErrorCode, printable } from "../backing.ts"
import { type CipherSpec, DIGEST_BYTES, modeText, parseCipherSpec } from "./cipher-spec.ts"
import { SECTOR_BYTES } from "./sector-cipher.ts"

export const LUKS_HEADER_BYTES = 592
export const SLOT_COUNT = 8
/** The only number of stripes that QEMU and cryptsetup write and read. */
export const STRIPES = 4000
/** The first byte where key material may begin. */
export const FIRST_MATERIAL = 4096
/** The alignment of key material, in bytes. */
export const MATERIAL_ALIGNMENT = 4096
export const DIGEST_LENGTH = 20
export const SALT_LENGTH = 32
/** The most iterations that an image may have, some 20 s of CPU time. QEMU and cryptsetup use a few millions, 2 s. */
export const MOST_ITERATIONS = 2 ** 25

/** Byte offsets in the header. [LUKS1] figure 1 */
const FIELD = {
  MAGIC: 0, VERSION: 6, CIPHER_NAME: 8, CIPHER_MODE: 40, HASH: 72, PAYLOAD_SECTOR: 104, KEY_BYTES: 108, DIGEST: 112, DIGEST_SALT: 132,
  DIGEST_ITERATIONS: 164, UUID: 168, SLOTS: 208,
} as const
/** Byte offsets in a key slot. [LUKS1] figure 2 */
export const SLOT_FIELD = { STATE: 0, ITERATIONS: 4, SALT: 8, MATERIAL_SECTOR: 40, STRIPES: 44 } as const
const SLOT_BYTES = 48
const NAME_BYTES = 32
const UUID_BYTES = 40
export const SLOT_STATE = { ACTIVE: 0x00ac_71f3, INACTIVE: 0x0000_dead } as const
const MAGIC = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]

export interface KeySlot {
  readonly isActive: boolean
  readonly iterations: number
  readonly salt: Uint8Array
  /** Byte offset of the key material from the start of the header. */
  readonly materialOffset: number
}

export interface LuksHeader {
  readonly cipher: CipherSpec
  /** The hash of key derivation and of the splitter. */
  readonly hash: string
  /** Byte offset of the encrypted data from the start of the header. Meaningless in a qcow2 image (QC-LUKS-03). */
  readonly payloadOffset: number
  /** The result of PBKDF2 for the volume's key. */
  readonly digest: Uint8Array
  readonly digestSalt: Uint8Array
  readonly digestIterations: number
  readonly uuid: string
  readonly slots: readonly KeySlot[]
}

/** Byte offset of slot number `slot` in the header. */
export function slotOffset(slot: number): number {
  return FIELD.SLOTS + slot * SLOT_BYTES
}

/** Bytes of a slot's key material. */
export function materialBytes({ cipher }: Pick<LuksHeader, "cipher">): number {
  return cipher.keyBytes * STRIPES
}

/** The place of a header, for messages. */
export interface HeaderPlace {
  readonly path: string
  /** Byte offset in the file. */
  readonly offset: number
}

/** Reads fields, and makes errors that name the byte. */
class Fields {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #place: HeaderPlace

  constructor(bytes: Uint8Array, place: HeaderPlace) {
    this.#bytes = bytes
    this.#view = viewOf(bytes)
    this.#place = place
  }

  u16(at: number): number {
    return this.#view.getUint16(at)
  }

  u32(at: number): number {
    return this.#view.getUint32(at)
  }

  bytes(at: number, length: number): Uint8Array {
    return this.#bytes.slice(at, at + length)
  }

  text(at: number, length: number, named: string): string {
    const field = this.#bytes.subarray(at, at + length)
    const end = field.indexOf(0)
    if (end < 0) throw this.error(at, `${named} has no NUL at its end`)
    return printable(String.fromCharCode(...field.subarray(0, end)))
  }

  error(at: number, problem: string, code: BackingErrorCode = "invalid-format"): BackingError {
    const { path, offset } = this.#place
    return new BackingError(code, `LUKS header, byte ${offset + at}: ${problem}`, { path, offset: offset + at })
  }
}

/** @throws BackingError `invalid-format` or `unsupported` when the header is contradictory, exceeds a limit, or needs a missing feature */
export function parseLuksHeader(bytes: Uint8Array, place: HeaderPlace): LuksHeader {
  const fields = new Fields(bytes, place)
  if (bytes.length < LUKS_HEADER_BYTES) throw fields.error(bytes.length, `the header ends after ${bytes.length} bytes`)
  if (MAGIC.some((byte, index) => bytes[index] !== byte)) throw fields.error(FIELD.MAGIC, 'it does not begin with "LUKS" 0xba 0xbe')
  const version = fields.u16(FIELD.VERSION)
  if (version !== 1) throw fields.error(FIELD.VERSION, `LUKS version ${version} is not supported; only 1 is`, "unsupported")
  const keyBytes = fields.u32(FIELD.KEY_BYTES)
  const name = fields.text(FIELD.CIPHER_NAME, NAME_BYTES, "the cipher's name")
  const cipher = parseCipherSpec(name, fields.text(FIELD.CIPHER_MODE, NAME_BYTES, "the cipher mode"), keyBytes)
  if (typeof cipher === "string") throw fields.error(FIELD.CIPHER_NAME, cipher, "unsupported")
  const hash = fields.text(FIELD.HASH, NAME_BYTES, "the hash's name")
  if (!DIGEST_BYTES.has(hash)) throw fields.error(FIELD.HASH, `the hash "${hash}" is not supported`, "unsupported")
  const payloadOffset = fields.u32(FIELD.PAYLOAD_SECTOR) * SECTOR_BYTES
  if (payloadOffset < FIRST_MATERIAL) throw fields.error(FIELD.PAYLOAD_SECTOR, "the payload overlaps the header")
  const header: LuksHeader = {
    cipher,
    hash,
    payloadOffset,
    digest: fields.bytes(FIELD.DIGEST, DIGEST_LENGTH),
    digestSalt: fields.bytes(FIELD.DIGEST_SALT, SALT_LENGTH),
    digestIterations: parseIterations(fields, FIELD.DIGEST_ITERATIONS),
    uuid: fields.text(FIELD.UUID, UUID_BYTES, "the UUID"),
    slots: Array.from({ length: SLOT_COUNT }, (_, slot) => parseSlot(fields, slotOffset(slot))),
  }
  refuseOverlaps(header, fields)
  return header
}

function parseIterations(fields: Fields, at: number): number {
  const iterations = fields.u32(at)
  if (iterations === 0) throw fields.error(at, "the number of iterations is 0")
  if (iterations > MOST_ITERATIONS) {
    throw fields.error(at, `${iterations} iterations of key derivation are more than the limit of ${MOST_ITERATIONS}`, "unsupported")
  }
  return iterations
}

function parseSlot(fields: Fields, at: number): KeySlot {
  const state = fields.u32(at + SLOT_FIELD.STATE)
  const isActive = state === SLOT_STATE.ACTIVE
  if (!isActive && state !== SLOT_STATE.INACTIVE) throw fields.error(at, `the state of a key slot is 0x${state.toString(16)}`)
  const stripes = fields.u32(at + SLOT_FIELD.STRIPES)
  if (stripes !== STRIPES) throw fields.error(at + SLOT_FIELD.STRIPES, `a key slot has ${stripes} stripes, which must be ${STRIPES}`)
  return {
    isActive,
    iterations: isActive ? parseIterations(fields, at + SLOT_FIELD.ITERATIONS) : 0,
    salt: fields.bytes(at + SLOT_FIELD.SALT, SALT_LENGTH),
    materialOffset: fields.u32(at + SLOT_FIELD.MATERIAL_SECTOR) * SECTOR_BYTES,
  }
}

/** Key material must be after the header and before the payload, without overlaps. */
function refuseOverlaps(header: LuksHeader, fields: Fields): void {
  const length = materialBytes(header)
  header.slots.forEach(({ materialOffset }, slot) => {
    const refuse = (other: string): BackingError =>
      fields.error(slotOffset(slot) + SLOT_FIELD.MATERIAL_SECTOR, `the key material of slot ${slot} overlaps ${other}`)
    if (materialOffset < FIRST_MATERIAL) throw refuse("the header")
    if (materialOffset + length > header.payloadOffset) throw refuse("the payload")
    const other = header.slots.findIndex((found, index) => index !== slot && Math.abs(found.materialOffset - materialOffset) < length)
    if (other >= 0) throw refuse(`that of slot ${other}`)
  })
}

/** The first 592 bytes. */
export function serialiseLuksHeader(header: LuksHeader): Uint8Array {
  const bytes = new Uint8Array(LUKS_HEADER_BYTES)
  const view = new DataView(bytes.buffer)
  const putText = (text: string, at: number): void => bytes.set(Uint8Array.from(text, (char) => char.charCodeAt(0)), at)
  bytes.set(MAGIC, FIELD.MAGIC)
  view.setUint16(FIELD.VERSION, 1)
  putText(header.cipher.name, FIELD.CIPHER_NAME)
  putText(modeText(header.cipher), FIELD.CIPHER_MODE)
  putText(header.hash, FIELD.HASH)
  view.setUint32(FIELD.PAYLOAD_SECTOR, header.payloadOffset / SECTOR_BYTES)
  view.setUint32(FIELD.KEY_BYTES, header.cipher.keyBytes)
  bytes.set(header.digest, FIELD.DIGEST)
  bytes.set(header.digestSalt, FIELD.DIGEST_SALT)
  view.setUint32(FIELD.DIGEST_ITERATIONS, header.digestIterations)
  putText(header.uuid, FIELD.UUID)
  header.slots.forEach((slot, index) => bytes.set(serialiseSlot(slot), slotOffset(index)))
  return bytes
}

/** The 48 bytes of a key slot. */
export function serialiseSlot({ isActive, iterations, salt, materialOffset }: KeySlot): Uint8Array {
  const bytes = new Uint8Array(SLOT_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(SLOT_FIELD.STATE, isActive ? SLOT_STATE.ACTIVE : SLOT_STATE.INACTIVE)
  view.setUint32(SLOT_FIELD.ITERATIONS, iterations)
  bytes.set(salt, SLOT_FIELD.SALT)
  view.setUint32(SLOT_FIELD.MATERIAL_SECTOR, materialOffset / SECTOR_BYTES)
  view.setUint32(SLOT_FIELD.STRIPES, STRIPES)
  return bytes
}
