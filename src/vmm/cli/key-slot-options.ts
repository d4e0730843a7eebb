/** The keys of `amend -o` that change who can open an encrypted image, in the words of qemu-img: "encrypt." precedes them for qcow2. */
import { addKeySlot, removeKeySlot } from "../../backing/operations/key-slots.ts"
import { openImage } from "../../backing/open.ts"
import { type Arguments, UsageError } from "./arguments.ts"
import type { ImageName } from "./image-name.ts"
import type { KeyValues } from "./key-values.ts"
import { givenSecret, newPassphraseOf } from "./secrets.ts"

/** The keys of a raw LUKS image, with their help. */
export const KEY_SLOT_KEYS: Readonly<Record<string, string>> = {
  state: "active|inactive  add a passphrase, or remove one",
  "new-secret": "ID  the --object with the new passphrase; or use --new-passphrase-file",
  "old-secret": "ID  the --object with the passphrase to remove",
  keyslot: "N  key slot, 0 to 7; default: the first free one, or all that the old passphrase opens",
  "iter-time": "N  duration in milliseconds of trying the new passphrase; default 2000",
}

/** A change of an image's key slots. */
export type KeySlotChange = (image: ImageName) => void

/** The change that the keys with this prefix request, if any. @throws UsageError for keys that contradict each other */
export function keySlotChange(given: Arguments, keys: KeyValues, prefix: "" | "encrypt."): KeySlotChange | undefined {
  const isGiven = (key: string): boolean => keys.text(`${prefix}${key}`) !== undefined
  const first = Object.keys(KEY_SLOT_KEYS).find(isGiven)
  if (first === undefined) return undefined
  const state = keys.choice(`${prefix}state`, ["active", "inactive"])
  if (state === undefined) throw new UsageError(`-o ${prefix}${first} goes with ${prefix}state=active or inactive`)
  for (const key of state === "active" ? ["old-secret"] : ["new-secret", "iter-time"]) {
    if (isGiven(key)) throw new UsageError(`-o ${prefix}${key} does not go with ${prefix}state=${state}`)
  }
  const slot = keys.count(`${prefix}keyslot`)
  if (slot !== undefined && slot > 7) throw new UsageError(`-o ${prefix}keyslot=${slot}: it must be from 0 to 7`)
  const choice = { force: given.flag("force"), ...(slot !== undefined && { slot }) }
  return state === "active" ? addition(given, keys, { prefix, choice }) : removal(given, keys, { prefix, choice })
}

interface Choice {
  readonly prefix: string
  readonly choice: { readonly force: boolean; readonly slot?: number }
}

function addition(given: Arguments, keys: KeyValues, { prefix, choice }: Choice): KeySlotChange {
  // A time of 0 is the least that there is.
  const iterTime = keys.count(`${prefix}iter-time`)
  const timed = iterTime === undefined ? {} : { iterTime: Math.max(iterTime, 1) }
  const source = newPassphraseOf(given, keys.text(`${prefix}new-secret`))
  return (image) => {
    const passphrase = image.passphrase(encrypted(image))
    addKeySlot(image.path, { passphrase, newPassphrase: source(encrypted(image)), ...choice, ...timed })
  }
}

function removal(given: Arguments, keys: KeyValues, { prefix, choice }: Choice): KeySlotChange {
  const secret = keys.text(`${prefix}old-secret`)
  if (secret === undefined && choice.slot === undefined) {
    throw new UsageError(`-o ${prefix}state=inactive needs ${prefix}keyslot=N or ${prefix}old-secret=ID: the passphrase to remove`)
  }
  const old = secret === undefined ? undefined : givenSecret(given, secret)
  return (image) => {
    // As in qemu-img, removing a passphrase needs a passphrase that opens the image.
    const { path, format, passphrase } = image
    openImage(path, { readOnly: true, passphrase, ...(format !== undefined && { format }) }).close()
    removeKeySlot(path, { ...choice, ...(old !== undefined && { passphrase: old() }) })
  }
}

function encrypted({ path }: ImageName) {
  return { path, encryption: "luks" } as const
}
