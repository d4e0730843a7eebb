/** `vioblk create`: makes a new, empty image. */
import { createImage } from "../../backing/create.ts"
import { oneOf, parse, UsageError, wholeNumber } from "./arguments.ts"
import { formatBytes, parseSize } from "./format.ts"
import { print, printHelp, printJson } from "./output.ts"

const HELP = `vioblk create [options] IMAGE [SIZE]

Makes an empty image of SIZE bytes, rounded up to whole sectors of 512; K, M, G and T after the number multiply by 1024 and its
powers. Nothing is overwritten.

      --format qcow2|raw         default qcow2
      --cluster-size SIZE        512 to 2M, a power of two; default 64K
      --refcount-bits N          1 to 64, a power of two; default 16
      --compat 0.10|1.1          version of the format; default 1.1
      --preallocation off|metadata
      --lazy-refcounts           set the feature bit of that name
      --backing FILE             what is not written shows FILE, named as from the image's folder; SIZE may be left out
      --backing-format raw|qcow2 its format; must be given with --backing
      --json                     print values for programs`

const SECTOR = 512

const ARGUMENTS = {
  format: { type: "string" },
  "cluster-size": { type: "string" },
  "refcount-bits": { type: "string" },
  compat: { type: "string" },
  preallocation: { type: "string" },
  "lazy-refcounts": { type: "boolean" },
  backing: { type: "string" },
  "backing-format": { type: "string" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const

export async function create(args: readonly string[]): Promise<number> {
  const { values, positionals } = parse(args, ARGUMENTS)
  if (values.help) {
    printHelp(HELP)
    return 0
  }
  const [path, sizeText, extra] = positionals
  if (path === undefined) throw new UsageError("create needs the name of an image")
  if (path === "") throw new UsageError("the name of the image is empty")
  if (values.backing === "") throw new UsageError("--backing: the name of the backing file is empty")
  if (extra !== undefined) throw new UsageError(`create makes one image of one size: "${extra}" is one word too many`)
  if (sizeText === undefined && values.backing === undefined) throw new UsageError("create needs a size, or a backing file to take it from")
  const format = oneOf("format", values.format, ["qcow2", "raw"])
  const compat = oneOf("compat", values.compat, ["0.10", "1.1"])
  const preallocation = oneOf("preallocation", values.preallocation, ["off", "metadata"])
  const backingFormat = oneOf("backing-format", values["backing-format"], ["raw", "qcow2"])
  const size = sizeText === undefined ? undefined : Math.ceil(sizeOf("SIZE", sizeText) / SECTOR) * SECTOR
  const refcountBits = values["refcount-bits"]
  const options = {
    ...(format !== undefined && { format }),
    ...(size !== undefined && { size }),
    ...(values["cluster-size"] !== undefined && { clusterSize: sizeOf("--cluster-size", values["cluster-size"]) }),
    ...(refcountBits !== undefined && { refcountBits: wholeNumber("refcount-bits", refcountBits, 1, 64, 16) }),
    ...(compat !== undefined && { compat }),
    ...(preallocation !== undefined && { preallocation }),
    ...(values["lazy-refcounts"] === true && { lazyRefcounts: true }),
    ...(values.backing !== undefined && { backing: values.backing }),
    ...(backingFormat !== undefined && { backingFormat }),
  }
  createImage(path, options)
  if (values.json) {
    printJson({ filename: path, ...options })
  } else {
    const length = size === undefined ? "" : `, ${formatBytes(size)}`
    const over = values.backing === undefined ? "" : `, over ${values.backing}`
    print(`created ${path}: ${format ?? "qcow2"}${length}${over}`)
  }
  return 0
}

function sizeOf(what: string, text: string): number {
  const size = parseSize(text)
  if (size === undefined) throw new UsageError(`${what} ${text}: a number of bytes is wanted, with K, M, G or T behind it if you like`)
  return size
}
