/** `vioblk map`: lists where each part of a disk is stored, in the image or in a backing file. */
import { writeFileSync } from "node:fs"
import { hostError } from "../../../backing/host/host-errors.ts"
import { openImage } from "../../../backing/open.ts"
import type { Arguments } from "../arguments.ts"
import { cellsOf } from "../disk-map/cells.ts"
import { diskSize, type Part, partsOf } from "../disk-map/parts.ts"
import { cellCount, pictureLines, pictureSvg, SVG_CELLS } from "../disk-map/picture.ts"
import { imageOf } from "../image-name.ts"
import { LineWriter, printHelp, toJson } from "../output.ts"
import { terminal } from "../terminal.ts"

export async function map(given: Arguments): Promise<number> {
  const { path, format, passphrase } = imageOf(given)
  const [start = 0, most = Number.POSITIVE_INFINITY] = [given.size("start-offset"), given.size("max-length")]
  const image = openImage(path, {
    passphrase, readOnly: true, lockReadOnly: true, ignoreLocks: given.flag("force-share"), ...(format !== undefined && { format }),
  })
  try {
    const length = Math.max(Math.min(diskSize(image) - start, most), 0)
    // As in qemu-img: an empty range is one part of 0 bytes.
    const parts = length === 0 ? [nothing(start)] : partsOf(image, { offset: start, length })
    const svg = given.text("svg")
    if (given.flag("picture") || svg !== undefined) {
      drawPicture(parts, { title: path, size: length, start, svg, isPrinted: given.flag("picture") })
    } else if (given.json) {
      printValues(parts)
    } else {
      printTable(parts)
    }
    return 0
  } finally {
    image.close()
  }
}

interface Picture {
  readonly title: string
  /** Bytes of the disk. */
  readonly start: number
  readonly size: number
  /** The file to write. */
  readonly svg: string | undefined
  readonly isPrinted: boolean
}

function drawPicture(parts: Iterable<Part>, { title, start, size, svg, isPrinted }: Picture): void {
  const known = [...parts].map((part) => ({ ...part, start: part.start - start }))
  if (svg !== undefined) writeNew(svg, pictureSvg(cellsOf(known, size, SVG_CELLS), title))
  if (!isPrinted) return
  const screen = terminal()
  printHelp(pictureLines(cellsOf(known, size, cellCount(screen)), screen).join("\n"))
}

/** Nothing is overwritten. @throws BackingError */
function writeNew(path: string, text: string): void {
  try {
    writeFileSync(path, text, { flag: "wx" })
  } catch (error) {
    throw hostError(error, "create", path)
  }
}

function nothing(start: number): Part {
  return { start, length: 0, depth: 0, present: false, zero: false, data: false, compressed: false, offset: undefined, filename: undefined }
}

/** A value for each part, on a line of its own. */
function printValues(parts: Iterable<Part>): void {
  const lines = new LineWriter()
  const names = new Map<string, string>()
  let pending = "["
  for (const { start, length, depth, present, zero, data, compressed, offset, filename } of parts) {
    if (pending !== "[") lines.add(`${pending},`)
    let name = filename === undefined ? "" : names.get(filename)
    if (filename !== undefined && name === undefined) names.set(filename, (name = `, "filename": ${toJson(filename)}`))
    const place = offset === undefined ? "" : `, "offset": ${offset}${name ?? ""}`
    pending = `${pending === "[" ? "[" : ""}{ "start": ${start}, "length": ${length}, "depth": ${depth}, "present": ${present}, ` +
      `"zero": ${zero}, "data": ${data}, "compressed": ${compressed}${place}}`
  }
  lines.add(`${pending}]`)
  lines.end()
}

/** A line for each part with data. */
function printTable(parts: Iterable<Part>): void {
  const lines = new LineWriter()
  const hex = (value: number) => (value === 0 ? "0" : `0x${value.toString(16)}`).padEnd(15)
  lines.add(`${"Offset".padEnd(15)} ${"Length".padEnd(15)} ${"Mapped to".padEnd(15)} File`)
  for (const { start, length, data, offset, filename } of parts) {
    if (!data) continue
    lines.add(`${hex(start)} ${hex(length)} ${offset === undefined ? "compressed".padEnd(15) : hex(offset)} ${filename ?? ""}`)
  }
  lines.end()
}
