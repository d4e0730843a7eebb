/** `vioblk amend`: changes options of an existing image, like `qemu-img amend`. */
import { type AmendImageOptions, amendImage } from "../../../backing/operations/amend-image.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { defined } from "../create-options.ts"
import { imageOf } from "../image-name.ts"
import { KEY_SLOT_KEYS, keySlotChange } from "../key-slot-options.ts"
import { KeyValues, wantsHelp } from "../key-values.ts"
import { complain, printHelp } from "../output.ts"

/** The keys of a qcow2 image, with their help. */
const QCOW2_KEYS: Readonly<Record<string, string>> = {
  compat: "0.10|1.1  version of the format, or v2|v3",
  data_file: "FILE  new name of the external data file, if the image has one",
  data_file_raw: "off  the data file no longer has the disk's bytes in order",
  lazy_refcounts: "on|off  allow programs to postpone updates of refcounts",
  refcount_bits: "N  1 to 64, a power of two",
  size: "SIZE  of the disk, not less than before",
  ...Object.fromEntries(Object.entries(KEY_SLOT_KEYS).map(([key, meaning]) => [`encrypt.${key}`, meaning])),
}

/** Keys for which qemu-img has another command. */
const REBASED = ["backing_file", "backing_fmt"]

export async function amend(given: Arguments): Promise<number> {
  const lists = given.texts("options")
  if (wantsHelp(lists)) {
    const known = given.text("format") === "luks" ? KEY_SLOT_KEYS : QCOW2_KEYS
    printHelp(["Options that can be changed:", ...Object.entries(known).map(([key, meaning]) => `  ${key}=${meaning}`)].join("\n"))
    return 0
  }
  if (lists.length === 0) throw new UsageError("amend needs changes: -o KEY=VALUE,...")
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
  // Comes first, because a wrong passphrase is the most likely error.
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
