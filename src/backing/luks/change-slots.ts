/**
 * Adds and removes key slots of a LUKS volume. Writing one word activates a slot, after the rest of it is on stable storage; a slot is
 * deactivated before its key material is overwritten. So a crash leaves the slots in the old or in the new state.
 */
import { BackingError } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"
import type { Cryptography } from "./cryptography.ts"
import {
  type KeySlot, type LuksHeader, materialBytes, MOST_ITERATIONS, SALT_LENGTH, serialiseSlot, SLOT_COUNT, SLOT_FIELD, SLOT_STATE, slotOffset,
} from "./header.ts"
import { sealKey } from "./key-slots.ts"
import { type Passphrase, passphraseBytes } from "./passphrase.ts"
import { readLuksHeader, unlockVolume } from "./volume.ts"

/** A LUKS header and its key material in a writable file. */
export interface WritableArea {
  readonly file: ImageFile
  /** Bytes. */
  readonly offset: number
  readonly length: number
}

/** A key slot to add. */
export interface AddedSlot {
  /** A passphrase that opens the image now. */
  readonly passphrase: Passphrase
  /** A passphrase that will open it too. */
  readonly newPassphrase: Passphrase
  /** 0 to 7. Default: the first free one. */
  readonly slot?: number
  /** Milliseconds of CPU time that one try of the new passphrase takes. Default 2000. */
  readonly iterTime?: number
  /** With `slot`: replace an active slot, whose passphrase no longer opens the image. Default false. */
  readonly force?: boolean
}

const FEWEST_ITERATIONS = 1000
const DEFAULT_ITER_TIME = 2000

/**
 * Lets another passphrase open the volume. Returns the number of its slot.
 * @throws BackingError `permission` for a wrong passphrase; `exists` when the slot, or every slot, is active already
 */
export function addSlot(area: WritableArea, added: AddedSlot, cryptography: Cryptography): number {
  const { header, key } = unlockVolume(area, { passphrase: added.passphrase, cryptography })
  const slot = added.slot ?? header.slots.findIndex(({ isActive }) => !isActive)
  const found = header.slots[slot]
  if (found === undefined || (found.isActive && added.force !== true)) {
    const message = found === undefined ? `all ${SLOT_COUNT} key slots are active; remove one first` : `key slot ${slot} is active already`
    throw new BackingError("exists", message, { path: area.file.path })
  }
  const { hash, cipher } = header
  const counted = cryptography.countIterations({ hash, length: cipher.keyBytes, milliseconds: added.iterTime ?? DEFAULT_ITER_TIME })
  const iterations = Math.min(Math.max(counted, FEWEST_ITERATIONS), MOST_ITERATIONS)
  const passphrase = passphraseBytes(added.newPassphrase)
  const fill = (number: number): void => fillSlot(area, number, { header, key, passphrase, iterations, cryptography })
  if (!found.isActive) fill(slot)
  else replaceSlot(area, slot, { header, fill, cryptography })
  return slot
}

interface Replacement {
  readonly header: LuksHeader
  readonly fill: (slot: number) => void
  readonly cryptography: Cryptography
}

/** Replaces an active slot. If it is the only one, a spare slot opens the volume meanwhile: a crash leaves the old or new passphrase. */
function replaceSlot(area: WritableArea, slot: number, { header, fill, cryptography }: Replacement): void {
  const isOnly = activeSlots(header).length === 1
  const spare = header.slots.findIndex(({ isActive }) => !isActive)
  if (isOnly) fill(spare)
  eraseSlot(area, header, slot, cryptography)
  fill(slot)
  if (isOnly) eraseSlot(area, header, spare, cryptography)
}

interface FilledSlot {
  readonly header: LuksHeader
  readonly key: Uint8Array
  readonly passphrase: Uint8Array
  readonly iterations: number
  readonly cryptography: Cryptography
}

/** Lets a passphrase open the volume by an inactive slot. */
function fillSlot(area: WritableArea, number: number, { header, key, passphrase, iterations, cryptography }: FilledSlot): void {
  const found = header.slots[number]
  if (found === undefined) return
  const salt = cryptography.random(SALT_LENGTH)
  area.file.write(sealKey(key, { header, passphrase, salt, iterations, cryptography }), area.offset + found.materialOffset)
  writeSlot(area, number, { ...found, salt, iterations })
  area.file.sync()
  writeState(area, number, SLOT_STATE.ACTIVE)
}

/** The slots to remove: one by its number, or all that a passphrase opens. With both: the numbered one, if the passphrase opens it. */
export interface RemovedSlots {
  readonly slot?: number
  readonly passphrase?: Passphrase
  /** Remove even the last active slot, so that nobody can open the image any more, or the remains of an inactive slot. Default false. */
  readonly force?: boolean
}

/**
 * Deactivates key slots, and overwrites their key material with random bytes. Returns the numbers of the slots.
 * @throws BackingError `permission` for a wrong passphrase; `not-found` for an inactive slot; `invalid-argument` when no slot would be left
 */
export function removeSlots(area: WritableArea, { slot, passphrase, force = false }: RemovedSlots, cryptography: Cryptography): number[] {
  const { path } = area.file
  const header = readLuksHeader(area)
  const active = activeSlots(header)
  const chosen = slot === undefined ? slotsOf(area, passphrase, cryptography) : [slot]
  const missing = chosen.find((number) => !active.includes(number))
  if (missing !== undefined && (!force || passphrase !== undefined)) {
    throw new BackingError("not-found", `key slot ${missing} is not active`, { path })
  }
  // Throws if the passphrase does not open the slot.
  if (slot !== undefined && passphrase !== undefined) unlockVolume(area, { passphrase, cryptography, only: slot })
  if (active.every((number) => chosen.includes(number)) && !force) {
    const message = "this would remove the last key slot, and nobody could open the image any more; use force to do it anyway"
    throw new BackingError("invalid-argument", message, { path })
  }
  for (const number of chosen) eraseSlot(area, header, number, cryptography)
  return chosen
}

/** The numbers of the active slots. */
export function activeSlots({ slots }: LuksHeader): number[] {
  return slots.flatMap(({ isActive }, number) => (isActive ? [number] : []))
}

/** The numbers of all slots that a passphrase opens. */
function slotsOf(area: WritableArea, passphrase: Passphrase | undefined, cryptography: Cryptography): number[] {
  if (passphrase === undefined) {
    throw new BackingError("invalid-argument", "give the number of the key slot to remove, or its passphrase", { path: area.file.path })
  }
  const { slot: first } = unlockVolume(area, { passphrase, cryptography })
  const others = activeSlots(readLuksHeader(area)).filter((number) => number > first && opens(area, passphrase, number, cryptography))
  return [first, ...others]
}

function opens(area: WritableArea, passphrase: Passphrase, only: number, cryptography: Cryptography): boolean {
  try {
    unlockVolume(area, { passphrase, cryptography, only })
    return true
  } catch (error) {
    if (error instanceof BackingError && error.code === "permission") return false
    throw error
  }
}

function eraseSlot(area: WritableArea, header: LuksHeader, number: number, cryptography: Cryptography): void {
  const slot = header.slots[number]
  if (slot === undefined) return
  writeState(area, number, SLOT_STATE.INACTIVE)
  writeSlot(area, number, { ...slot, isActive: false, iterations: 0, salt: new Uint8Array(SALT_LENGTH) })
  area.file.write(cryptography.random(materialBytes(header)), area.offset + slot.materialOffset)
  area.file.sync()
}

/** Writes a slot as inactive. */
function writeSlot({ file, offset }: WritableArea, number: number, slot: KeySlot): void {
  file.write(serialiseSlot({ ...slot, isActive: false }), offset + slotOffset(number))
}

function writeState({ file, offset }: WritableArea, number: number, state: number): void {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, state)
  file.write(bytes, offset + slotOffset(number) + SLOT_FIELD.STATE)
  file.sync()
}
