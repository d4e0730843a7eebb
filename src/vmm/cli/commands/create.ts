/** `vioblk create`: makes a new, empty image. */
import { createImage } from "../../../backing/create.ts"
import { removeHostFile } from "../../../backing/host/host-file.ts"
import { writeNew } from "../../../backing/host/new-file.ts"
import { createQcow2 } from "../../../backing/qcow2/create.ts"
import { type Arguments, nameOf, sizeOf, UsageError } from "../arguments.ts"
import type { ImageFormat } from "../../../backing/signatures.ts"
import { defined, givenOptions, helpsWithOptions, wantsSpace } from "../create-options.ts"
import { dataHolder, fillHoles } from "../fill-holes.ts"
import { formatBytes } from "../format.ts"
import { stoppable } from "../long-work.ts"
import { complain, print, printJson } from "../output.ts"

const SECTOR = 512

export async function create(given: Arguments): Promise<number> {
  const format = given.choice("format", ["raw", "qcow2", "luks"]) ?? "raw"
  if (helpsWithOptions(given, format)) return 0
  const [word, sizeText, extra] = given.words
  const path = nameOf("image", word)
  if (extra !== undefined) throw new UsageError(`create makes one image of one size: "${extra}" is one word too many`)
  const options = { format, ...optionsOf(given, format, sizeText) }
  const { backing, size } = options
  if (backing === "") throw new UsageError(`${given.spelling("backing")}: the name of the backing file is empty`)
  if (backing !== undefined && options.backingFormat === undefined) {
    throw new UsageError(`the format of the backing file "${backing}" must be given: -F raw or -F qcow2`)
  }
  if (size === undefined && backing === undefined) throw new UsageError("create needs a size, or a backing file to take it from")
  if (given.flag("backing-unsafe") && backing !== undefined) {
    if (size === undefined) throw new UsageError("create needs a size if it does not open the backing file")
    const { format: _, ...qcow2 } = options
    writeNew(path, (file) => createQcow2(file, { ...qcow2, size }))
  } else {
    createImage(path, options)
  }
  if (wantsSpace(given, format)) await fillOrRemove(path, dataHolder(path, options))
  if (format === "raw" && !given.flag("format") && /\.qcow2$/i.test(path)) {
    complain(`${path} is a raw image, whatever its name says; -f qcow2 makes a qcow2 image`)
  }
  if (given.json) {
    // The passphrase stays here.
    const { encryption, ...shown } = options
    printJson({ filename: path, ...shown, ...(encryption !== undefined && { encrypted: true }) })
  } else if (!given.flag("quiet")) {
    const length = size === undefined ? "" : `, ${formatBytes(size)}`
    print(`created ${path}: ${format}${length}${backing === undefined ? "" : `, over ${backing}`}`)
  }
  return 0
}

async function fillOrRemove(path: string, holder: string): Promise<void> {
  try {
    await stoppable(`${path} was not created`, (signal) => fillHoles(holder, signal))
  } catch (error) {
    removeHostFile(path)
    if (holder !== path) removeHostFile(holder)
    throw error
  }
}

/** The options of `-o`; separate options override them. */
function optionsOf(given: Arguments, format: ImageFormat, sizeText: string | undefined) {
  const listed = givenOptions(given, format)
  if (sizeText !== undefined && listed.size !== undefined) throw new UsageError("the size is given twice: SIZE and -o size")
  const size = sizeText === undefined ? listed.size : sizeOf("SIZE", sizeText)
  return {
    ...listed,
    ...defined({
      size: size === undefined ? undefined : Math.ceil(size / SECTOR) * SECTOR,
      clusterSize: given.size("cluster-size"),
      refcountBits: given.count("refcount-bits", 1, 64),
      compat: given.choice("compat", ["0.10", "1.1"]),
      preallocation: given.choice("preallocation", ["off", "metadata"]),
      lazyRefcounts: given.flag("lazy-refcounts") ? true : undefined,
      backing: given.text("backing"),
      backingFormat: given.choice("backing-format", ["raw", "qcow2", "luks"]),
    }),
  }
}
