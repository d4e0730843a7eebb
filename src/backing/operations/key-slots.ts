/** Changes the key slots, and so the passphrases, of an encrypted image: qcow2 with LUKS, or raw LUKS. */
import { checkCount, checkOptions, checkValue, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import { LockedFile } from "../host/image-lock.ts"
import { nodeCryptography } from "../host/node-cryptography.ts"
import { activeSlots, type AddedSlot, addSlot, type RemovedSlots, removeSlots, type WritableArea } from "../luks/change-slots.ts"
import { SLOT_COUNT } from "../luks/header.ts"
import { checkAnswer } from "../luks/passphrase.ts"
import { readLuksHeader } from "../luks/volume.ts"
import { luksArea } from "../qcow2/encryption.ts"
import { readHeader } from "../qcow2/format/parse-header.ts"
import { probeFormat } from "../signatures.ts"

/** Options of `addKeySlot`. */
export interface AddKeySlotOptions extends AddedSlot {}

/** Options of `removeKeySlot`: the slot's number, or its passphrase, or both. */
export interface RemoveKeySlotOptions extends RemovedSlots {}

const ADD_RULES: Rules<AddKeySlotOptions> = {
  passphrase: "any", newPassphrase: "any", slot: "number?", iterTime: "number?", force: "boolean?",
}
const REMOVE_RULES: Rules<RemoveKeySlotOptions> = { slot: "number?", passphrase: "any?", force: "boolean?" }

/**
 * Adds a passphrase to the image at `path`, which nobody may have open. Returns the number of its key slot. A crash leaves the slots as
 * they were, or with the new one.
 * @throws BackingError `permission` for a wrong passphrase; `exists` if the slot, or each of the eight, is active; `busy`; `invalid-format`
 * for an image without LUKS
 * @throws TypeError for wrong arguments
 */
export function addKeySlot(path: string, options: AddKeySlotOptions): number {
  checkValue("addKeySlot", "path", path, "string")
  checkOptions("addKeySlot", options, ADD_RULES)
  checkAnswer("addKeySlot", options.passphrase)
  checkAnswer("addKeySlot", options.newPassphrase, "newPassphrase")
  checkCount("addKeySlot", "slot", options.slot, 0, SLOT_COUNT - 1)
  checkCount("addKeySlot", "iterTime", options.iterTime, 1)
  return withArea(path, { readOnly: false }, (area) => addSlot(area, options, nodeCryptography))
}

/**
 * Removes a passphrase from the image at `path`, and destroys its key material, if the host overwrites in place. Returns the numbers of the
 * removed slots. Nobody may have the image open.
 * @throws BackingError `permission` for a wrong passphrase; `not-found` for a slot that is not active; `invalid-argument` if no slot would
 * be left and `force` is not set; `busy`; `invalid-format` for an image without LUKS
 * @throws TypeError for wrong arguments
 */
export function removeKeySlot(path: string, options: RemoveKeySlotOptions): number[] {
  checkValue("removeKeySlot", "path", path, "string")
  checkOptions("removeKeySlot", options, REMOVE_RULES)
  if (options.passphrase !== undefined) checkAnswer("removeKeySlot", options.passphrase)
  checkCount("removeKeySlot", "slot", options.slot, 0, SLOT_COUNT - 1)
  return withArea(path, { readOnly: false }, (area) => removeSlots(area, options, nodeCryptography))
}

/** The numbers of the key slots that are active. @throws BackingError `invalid-format` for an image without LUKS */
export function activeKeySlots(path: string): number[] {
  checkValue("activeKeySlots", "path", path, "string")
  return withArea(path, { readOnly: true }, (area) => activeSlots(readLuksHeader(area)))
}

function withArea<T>(path: string, opening: { readonly readOnly: boolean }, work: (area: WritableArea) => T): T {
  const file = new LockedFile(path, opening)
  try {
    file.claim()
    const area = probeFormat(file) === "qcow2" ? luksArea(file, readHeader(file)) : { offset: 0, length: file.size() }
    if (area === undefined) throw new BackingError("invalid-format", "the image is not encrypted by LUKS, so it has no key slots", { path })
    return work({ ...area, file })
  } finally {
    file.close()
  }
}
