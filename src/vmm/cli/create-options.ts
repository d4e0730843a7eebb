/** `-o KEY=VALUE,...`: the options of a new image, under qemu-img's keys. */
import type { CreateImageOptions } from "../../backing/create.ts"
import type { ImageFormat } from "../../backing/signatures.ts"
import type { Arguments } from "./arguments.ts"
import { ENCRYPT_KEYS, encryptionOf, LUKS_KEYS } from "./encryption-options.ts"
import { KeyValues, wantsHelp } from "./key-values.ts"
import { printHelp } from "./output.ts"

/** The keys of a qcow2 image, with their help. */
const QCOW2_KEYS: Readonly<Record<string, string>> = {
  backing_file: "FILE  backing file, from which unwritten parts are read; relative to the image's folder",
  backing_fmt: "raw|qcow2  format of that file",
  cluster_size: "SIZE  512 to 2M, a power of two; default 64k",
  compat: "0.10|1.1  version of the format, or v2|v3; default 1.1",
  data_file: "FILE  external data file, which stores the data; relative to the image's folder",
  data_file_raw: "on|off  the data file has the disk's bytes in order, like a raw image; default off",
  compression_type: "zlib|zstd  compression of clusters; default zlib",
  extended_l2: "on|off  divide each cluster into 32 subclusters; default off",
  lazy_refcounts: "on|off  allow programs to postpone updates of refcounts; default off",
  ...ENCRYPT_KEYS,
  nocow: "on|off  accepted, without effect",
  preallocation: "off|metadata|falloc|full  metadata: allocate all clusters; falloc, full: also their space in the file; default off",
  refcount_bits: "N  1 to 64, a power of two; default 16",
  size: "SIZE  of the disk",
}

const RAW_KEYS: Readonly<Record<string, string>> = {
  nocow: "on|off  accepted, without effect",
  preallocation: "off|falloc|full  falloc, full: allocate the file's space; default off",
  size: "SIZE  of the disk",
}

const KEYS: Readonly<Record<ImageFormat, Readonly<Record<string, string>>>> = {
  raw: RAW_KEYS, qcow2: QCOW2_KEYS, luks: { ...LUKS_KEYS, size: "SIZE  of the disk" },
}

/** The options of `createImage` from `-o`. */
export type GivenOptions = Partial<Omit<CreateImageOptions, "format">>

/** Prints the keys for `-o help`. Returns whether it was given. */
export function helpsWithOptions(given: Arguments, format: ImageFormat): boolean {
  if (!wantsHelp(given.texts("options"))) return false
  printHelp(["Options of a new image:", ...Object.entries(KEYS[format]).map(([key, meaning]) => `  ${key}=${meaning}`)].join("\n"))
  return true
}

/** Reads all `-o` lists of a command. @throws UsageError for a key or a value that the format does not have */
export function givenOptions(given: Arguments, format: ImageFormat): GivenOptions {
  const keys = keysOf(given, format)
  const preallocation = keys.choice("preallocation", format !== "qcow2" ? ["off", "falloc", "full"] : ["off", "metadata", "falloc", "full"])
  keys.switch("nocow")
  const version = keys.choice("compat", ["0.10", "1.1", "v2", "v3"])
  return defined({
    size: keys.size("size"),
    backing: keys.text("backing_file"),
    backingFormat: keys.choice("backing_fmt", ["raw", "qcow2", "luks"]),
    clusterSize: keys.size("cluster_size"),
    compat: version === undefined ? undefined : version === "0.10" || version === "v2" ? "0.10" as const : "1.1" as const,
    dataFile: keys.text("data_file"),
    dataFileRaw: keys.switch("data_file_raw"),
    lazyRefcounts: keys.switch("lazy_refcounts"),
    // Only metadata now; `fillHoles` allocates the rest later.
    preallocation: format !== "qcow2" || preallocation === undefined || preallocation === "off" ? undefined : "metadata" as const,
    compressionType: keys.choice("compression_type", ["zlib", "zstd"]),
    encryption: format === "raw" ? undefined : encryptionOf(given, keys, format === "luks" ? "" : "encrypt."),
    extendedL2: keys.switch("extended_l2"),
    refcountBits: keys.count("refcount_bits"),
  })
}

/** Whether `-o preallocation` asks for the file's space. */
export function wantsSpace(given: Arguments, format: ImageFormat): boolean {
  return ["falloc", "full"].includes(keysOf(given, format).text("preallocation") ?? "off")
}

function keysOf(given: Arguments, format: ImageFormat): KeyValues {
  return new KeyValues("-o", given.texts("options"), Object.keys(KEYS[format]))
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> }

/** The members that are not undefined. */
export function defined<T extends object>(members: T): Defined<T> {
  const result: Defined<T> = {}
  for (const key of Object.keys(members) as (keyof T)[]) {
    const value = members[key]
    if (value !== undefined) result[key] = value as Exclude<T[keyof T], undefined>
  }
  return result
}
