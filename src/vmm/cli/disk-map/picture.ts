/** `vioblk map --picture` and `--svg`: a disk's allocation, drawn. */
import { printable } from "../../../backing/backing.ts"
import { formatBytes } from "../format.ts"
import type { Terminal } from "../terminal.ts"
import { type Cells, type Kind, KINDS } from "./cells.ts"

interface Look {
  readonly sign: string
  /** For terminals with ASCII only. */
  readonly ascii: string
  /** The number of a terminal's colour, and the colour in an SVG. */
  readonly ansi: number
  readonly colour: string
  readonly meaning: string
}

const LOOKS: Readonly<Record<Kind, Look>> = {
  unallocated: { sign: "·", ascii: ".", ansi: 90, colour: "#eeeeee", meaning: "not allocated: zeroes" },
  zero: { sign: "░", ascii: "0", ansi: 37, colour: "#c4c4c4", meaning: "zeroes: marked as zero, or a hole" },
  data: { sign: "█", ascii: "#", ansi: 32, colour: "#2e8b57", meaning: "data in the image" },
  compressed: { sign: "▓", ascii: "c", ansi: 33, colour: "#c9a227", meaning: "compressed data in the image" },
  "backing 1": { sign: "▒", ascii: "1", ansi: 34, colour: "#3b6fb6", meaning: "data in the backing file" },
  "backing 2": { sign: "▚", ascii: "2", ansi: 35, colour: "#8e5bb5", meaning: "data in the backing file below that" },
  "backing 3": { sign: "▞", ascii: "3", ansi: 31, colour: "#b5485d", meaning: "data further down" },
}

const MOST_ROWS = 16

/** The number of cells of a picture on this terminal. */
export function cellCount(terminal: Terminal): number {
  return Math.max(terminal.columns - 1, 1) * MOST_ROWS
}

/** The picture with its legend. No line is wider than the terminal. */
export function pictureLines({ kinds, bytesPerCell, totals }: Cells, terminal: Terminal): string[] {
  const width = Math.max(terminal.columns - 1, 1)
  const rows: string[] = []
  for (let at = 0; at < kinds.length; at += width) rows.push(drawRow(kinds.slice(at, at + width), terminal))
  const cut = (line: string): string => line.slice(0, width)
  const legend = KINDS.filter((kind) => (totals.get(kind) ?? 0) > 0).map((kind) => {
    const text = cut(`  ${LOOKS[kind].meaning}, ${formatBytes(totals.get(kind) ?? 0)}`)
    return `${draw(kind, 1, terminal)}${text.slice(0, width - 1)}`
  })
  return [...rows, "", ...legend, cut(`one sign is ${formatBytes(Math.round(bytesPerCell))} of the disk`)]
}

function drawRow(kinds: readonly Kind[], terminal: Terminal): string {
  let [row, at] = ["", 0]
  while (at < kinds.length) {
    const kind = kinds[at] ?? "unallocated"
    let end = at
    while (end < kinds.length && kinds[end] === kind) end++
    row += draw(kind, end - at, terminal)
    at = end
  }
  return row
}

function draw(kind: Kind, count: number, { hasColours, isUnicode }: Terminal): string {
  const { sign, ascii, ansi } = LOOKS[kind]
  const signs = (isUnicode ? sign : ascii).repeat(count)
  return hasColours ? `\x1b[${ansi}m${signs}\x1b[0m` : signs
}

export const SVG_COLUMNS = 128
export const SVG_CELLS = SVG_COLUMNS * 64
const CELL = 8
const LINE = 20

/** The picture as a file for browsers. */
export function pictureSvg({ kinds, bytesPerCell, totals }: Cells, title: string): string {
  const escaped = printable(title).replace(/[&<>"]/g, (found) => `&#${found.codePointAt(0)};`)
  const shown = KINDS.filter((kind) => (totals.get(kind) ?? 0) > 0)
  const height = Math.ceil(kinds.length / SVG_COLUMNS) * CELL
  const total = height + LINE * (shown.length + 2)
  const width = SVG_COLUMNS * CELL
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${total}" font-family="sans-serif" font-size="13">`,
    `<title>${escaped}</title>`, `<rect width="${width}" height="${total}" fill="#ffffff"/>`,
  ]
  for (let at = 0; at < kinds.length;) {
    const kind = kinds[at] ?? "unallocated"
    const rowEnd = Math.min((Math.floor(at / SVG_COLUMNS) + 1) * SVG_COLUMNS, kinds.length)
    let end = at
    while (end < rowEnd && kinds[end] === kind) end++
    const [x, y] = [(at % SVG_COLUMNS) * CELL, Math.floor(at / SVG_COLUMNS) * CELL]
    lines.push(`<rect x="${x}" y="${y}" width="${(end - at) * CELL}" height="${CELL - 1}" fill="${LOOKS[kind].colour}"/>`)
    at = end
  }
  shown.forEach((kind, index) => {
    const y = height + LINE * (index + 1)
    lines.push(`<rect x="0" y="${y - 11}" width="12" height="12" fill="${LOOKS[kind].colour}"/>`)
    lines.push(`<text x="20" y="${y}">${LOOKS[kind].meaning}, ${formatBytes(totals.get(kind) ?? 0)}</text>`)
  })
  lines.push(`<text x="0" y="${total - 8}">${escaped}: one cell is ${formatBytes(Math.round(bytesPerCell))}</text>`, "</svg>", "")
  return lines.join("\n")
}
