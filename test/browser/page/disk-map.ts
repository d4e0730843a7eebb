/** The disk as a picture: a cell for each part of it, coloured by where that part lives. */
import type { MapExtent } from "vioblk"
import type { DemoDisk } from "./disk.ts"
import { GRANULE, KNOWN } from "./recorded-file.ts"

const COLUMNS = 80
const ROWS = 22
const CELL = 10
const GAP = 2
/** Milliseconds for which a cell that has changed stays bright. */
const GLOW = 900

/** Places, the first that any byte of a cell lives in counts. */
const PLACES = ["overlay", "base", "zero", "missing"] as const
export type Place = (typeof PLACES)[number]

const COLOURS: Readonly<Record<Place, string>> = { overlay: "#ff9f43", base: "#3fa7ff", zero: "#2f6b62", missing: "#1b2433" }

/** Cells in each place, of all. */
export type PlaceCounts = Readonly<Record<Place, number>>

export class DiskMap {
  readonly #context: CanvasRenderingContext2D
  #places: Place[] = []
  #changed: number[] = []
  #lastChange = 0

  constructor(canvas: HTMLCanvasElement) {
    canvas.width = COLUMNS * CELL
    canvas.height = ROWS * CELL
    const context = canvas.getContext("2d")
    if (context === null) throw new Error("the browser draws nothing on a canvas")
    this.#context = context
    this.clear()
  }

  clear(): void {
    this.#places = Array.from({ length: COLUMNS * ROWS }, () => "missing")
    this.#changed = this.#places.map(() => Number.NEGATIVE_INFINITY)
    this.#draw()
  }

  /** Looks where everything is now. */
  async update(disk: DemoDisk): Promise<PlaceCounts> {
    const [overlay, base] = [await disk.overlayMap(), await disk.baseMap()]
    const cells = new CellPlaces(disk)
    for (const extent of overlay) cells.add(extent, base)
    const now = performance.now()
    cells.places.forEach((place, index) => {
      if (place === this.#places[index]) return
      this.#changed[index] = now
      this.#lastChange = now
    })
    this.#places = cells.places
    if (now - this.#lastChange < 2 * GLOW) this.#draw()
    const counts = { overlay: 0, base: 0, zero: 0, missing: 0 }
    for (const place of this.#places) counts[place]++
    return counts
  }

  #draw(): void {
    const context = this.#context
    const now = performance.now()
    context.clearRect(0, 0, COLUMNS * CELL, ROWS * CELL)
    this.#places.forEach((place, index) => {
      const [x, y] = [(index % COLUMNS) * CELL, Math.floor(index / COLUMNS) * CELL]
      const glow = Math.max(0, 1 - (now - (this.#changed[index] ?? 0)) / GLOW)
      context.fillStyle = COLOURS[place]
      context.beginPath()
      context.roundRect(x, y, CELL - GAP, CELL - GAP, 2)
      context.fill()
      if (glow === 0) return
      context.fillStyle = `rgba(255, 255, 255, ${0.75 * glow})`
      context.fill()
    })
  }
}

/** Finds the place of each cell. */
class CellPlaces {
  readonly places: Place[]
  readonly #disk: DemoDisk
  readonly #cellSize: number

  constructor(disk: DemoDisk) {
    this.#disk = disk
    this.#cellSize = disk.size / (COLUMNS * ROWS)
    this.places = Array.from({ length: COLUMNS * ROWS }, () => "missing")
  }

  /** Takes over one extent of the overlay. Below it are the base's extents; a raw base is its file. */
  add(extent: MapExtent, base: readonly MapExtent[] | undefined): void {
    if (extent.kind === "zero") this.#mark("zero", extent.offset, extent.length)
    else if (extent.kind !== "backing") this.#mark("overlay", extent.offset, extent.length)
    else if (base === undefined) this.#addFile(extent.offset, extent.length, extent.offset)
    else for (const below of base) this.#addBelow(extent, below)
  }

  #addBelow(extent: MapExtent, below: MapExtent): void {
    const start = Math.max(extent.offset, below.offset)
    const length = Math.min(extent.offset + extent.length, below.offset + below.length) - start
    if (length <= 0) return
    if (below.kind !== "data" && below.kind !== "compressed") this.#mark("zero", start, length)
    else if (below.hostOffset !== undefined) this.#addFile(start, length, below.hostOffset + start - below.offset)
  }

  /** `length` bytes of the disk from `offset` are the base file's from `place`. */
  #addFile(offset: number, length: number, place: number): void {
    for (let at = 0; at < length; at += GRANULE) {
      const known = this.#disk.base.knownAt(place + at)
      if (known !== KNOWN.NOTHING) this.#mark(known === KNOWN.DATA ? "base" : "zero", offset + at, Math.min(GRANULE, length - at))
    }
  }

  #mark(place: Place, offset: number, length: number): void {
    const end = Math.min(this.places.length, Math.ceil((offset + length) / this.#cellSize))
    for (let cell = Math.floor(offset / this.#cellSize); cell < end; cell++) {
      if (PLACES.indexOf(place) < PLACES.indexOf(this.places[cell] ?? "missing")) this.places[cell] = place
    }
  }
}
