/** Opens a LUKS volume with a passphrase: a header with its key material, anywhere in a file. */
import { BackingError } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"
import type { Cryptography } from "./cryptography.ts"
import { type HeaderPlace, LUKS_HEADER_BYTES, type LuksHeader, materialBytes, parseLuksHeader } from "./header.ts"
import { openSlot, type ReadArea } from "./key-slots.ts"
import { type Passphrase, passphraseBytes } from "./passphrase.ts"

/** The bytes of a file that hold a LUKS header and its key material. */
export interface LuksArea {
  readonly file: Pick<ImageFile, "path" | "read">
  /** Byte offset in the file. */
  readonly offset: number
  readonly length: number
}

/** The header in an area. @throws BackingError as `parseLuksHeader`, and `invalid-format` if the area is too short for its slots */
export function readLuksHeader(area: LuksArea): LuksHeader {
  const header = parseLuksHeader(readArea(area)(0, LUKS_HEADER_BYTES), placeOf(area))
  const end = Math.max(...header.slots.map(({ materialOffset }) => materialOffset)) + materialBytes(header)
  if (end > area.length) {
    const message = `its LUKS header has ${area.length} bytes, but its key slots end at byte ${end}`
    throw new BackingError("invalid-format", message, placeOf(area))
  }
  return header
}

function placeOf({ file, offset }: LuksArea): HeaderPlace {
  return { path: file.path, offset }
}

/** A function that reads from an area. It throws `invalid-format` if the file is too short. */
export function readArea({ file, offset }: LuksArea): ReadArea {
  return (from, length) => {
    const bytes = new Uint8Array(length)
    const found = file.read(bytes, offset + from)
    if (found === length) return bytes
    const at = offset + from + found
    throw new BackingError("invalid-format", `the file ends in its LUKS header, at byte ${at}`, { path: file.path, offset: at })
  }
}

export interface UnlockOptions {
  readonly passphrase: Passphrase
  readonly cryptography: Cryptography
  /** Try only this slot. */
  readonly only?: number
}

export interface UnlockedVolume {
  readonly header: LuksHeader
  /** The slot that the passphrase opens. */
  readonly slot: number
  readonly key: Uint8Array
}

/** @throws BackingError `permission` for a wrong passphrase, and as `readLuksHeader` */
export function unlockVolume(area: LuksArea, { passphrase, cryptography, only }: UnlockOptions): UnlockedVolume {
  const header = readLuksHeader(area)
  refuseMissingHash(header, cryptography, area.file.path)
  const place = placeOf(area)
  const opened = openSlot({
    header, passphrase: passphraseBytes(passphrase), read: readArea(area), cryptography, place, ...(only === undefined ? {} : { only }),
  })
  return { header, ...opened }
}

/** @throws BackingError `unsupported` */
export function refuseMissingHash({ hash, cipher }: Pick<LuksHeader, "hash" | "cipher">, cryptography: Cryptography, path: string): void {
  const missing = [hash, cipher.ivHash ?? hash].find((name) => !cryptography.hasHash(name))
  if (missing !== undefined) throw new BackingError("unsupported", `the hash "${missing}" is not supported by this platform`, { path })
}
