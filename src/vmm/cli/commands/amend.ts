/** `vioblk amend`: changes options of an image that is there, as `qemu-img amend` does. */
import { type AmendImageOptions, amendImage } from "../../../backing/operations/amend-image.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { defined } from "../create-options.ts"
import { imageOf } from "../image-name.ts"
import { KEY_SLOT_KEYS, keySlotChange } from "../key-slot-options.ts"
import { KeyValues, wantsHelp } from "../key-values.ts"
import { complain, printHelp } from "../output.ts"

/** The keys of a qcow2 image, and what the list of them says. */
const QCOW2_KEYS: Readonly<Record<string, string>> = {
  compat: "0.10|1.1  version of the format, or v2|v3",
  data_file: "FILE  name of the external data file, of an image that has one",
  data_file_raw: "off  that file is no longer kept as what the guest sees",
  lazy_refcounts: "on|off  the feature bit of that name",
  refcount_bits: "N  1 to 64, a power of two",
  size: "SIZE  of the disk, not less than it has",
  ...Object.fromEntries(Object.entries(KEY_SLOT_KEYS).map(([key, meaning]) => [`encrypt.${key}`, meaning])),
}

/** What qemu-img leaves to another command. */
const REBASED = ["backing_file", "backing_fmt"]

export async function amend(given: Arguments): Promise<number> {
  const lists = given.texts("options")
  if (wantsHelp(lists)) {
    const known = given.text("format") === "luks" ? KEY_SLOT_KEYS : QCOW2_KEYS
    printHelp(["Options that can be changed:", ...Object.entries(known).map(([key, meaning]) => `  ${key}=${meaning}`)].join("\n"))
    return 0
  }
  if (lists.length === 0) throw new UsageError("amend needs what is to change: -o KEY=VALUE,...")
  const isLuks = imageOf(given).format === "luks"
  const prefix = isLuks ? "" : "encrypt."
  const keys = new KeyValues("-o", lists, isLuks ? Object.keys(KEY_SLOT_KEYS) : [...Object.keys(QCOW2_KEYS), ...REBASED])
  const otherSecrets = ["new-secret", "old-secret"].flatMap((key) => keys.text(`${prefix}${key}`) ?? [])
  const image = imageOf(given, { otherSecrets })
  const options = isLuks ? {} : optionsOf(keys)
  const changeKeySlots = keySlotChange(given, keys, prefix)
  if (image.format === "raw") {
    complain(`${image.path}: a raw image has no options`)
    return 1
  }
  // First: a passphrase is more likely to be wrong than anything that amendImage refuses.
  changeKeySlots?.(image)
  if (Object.keys(options).length > 0) amendImage(image.path, { ...options, passphrase: image.passphrase })
  return 0
}

function optionsOf(keys: KeyValues): AmendImageOptions {
  const rebased = REBASED.find((key) => keys.text(key) !== undefined)
  if (rebased !== undefined) throw new UsageError(`-o ${rebased}: the backing file is changed by vioblk rebase (-u for the name only)`)
  const version = keys.choice("compat", ["0.10", "1.1", "v2", "v3"])
  return defined({
    compat: version === undefined ? undefined : version === "0.10" || version === "v2" ? "0.10" as const : "1.1" as const,
    lazyRefcounts: keys.switch("lazy_refcounts"),
    refcountBits: keys.count("refcount_bits"),
    dataFile: keys.text("data_file"),
    dataFileRaw: keys.switch("data_file_raw"),
    size: keys.size("size"),
  })
}
