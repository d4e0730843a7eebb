/** `vioblk amend`: changes options of an image that is there, as `qemu-img amend` does. */
import { type AmendImageOptions, amendImage } from "../../../backing/operations/amend-image.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { defined } from "../create-options.ts"
import { imageOf } from "../image-name.ts"
import { KeyValues, wantsHelp } from "../key-values.ts"
import { complain, printHelp } from "../output.ts"

/** The keys, and what the list of them says. */
const KEYS: Readonly<Record<string, string>> = {
  compat: "0.10|1.1  version of the format, or v2|v3",
  data_file: "FILE  name of the external data file, of an image that has one",
  data_file_raw: "off  that file is no longer kept as what the guest sees",
  lazy_refcounts: "on|off  the feature bit of that name",
  refcount_bits: "N  1 to 64, a power of two",
  size: "SIZE  of the disk, not less than it has",
}

/** What qemu-img leaves to another command. */
const REBASED = ["backing_file", "backing_fmt"]

export async function amend(given: Arguments): Promise<number> {
  const lists = given.texts("options")
  if (wantsHelp(lists)) {
    printHelp(["Options that can be changed:", ...Object.entries(KEYS).map(([key, meaning]) => `  ${key}=${meaning}`)].join("\n"))
    return 0
  }
  const { path, format } = imageOf(given)
  if (lists.length === 0) throw new UsageError("amend needs what is to change: -o KEY=VALUE,...")
  const options = optionsOf(lists)
  if (format === "raw") {
    complain(`${path}: a raw image has no options`)
    return 1
  }
  amendImage(path, options)
  return 0
}

function optionsOf(lists: readonly string[]): AmendImageOptions {
  const keys = new KeyValues("-o", lists, [...Object.keys(KEYS), ...REBASED])
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
