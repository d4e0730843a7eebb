/** The parts of a disk: their kinds, and where they are stored in a chain of images. Depths and holes are those of `qemu-img map`. */
import { dataExtents, type DataExtent } from "../../../backing/host/data-extents.ts"
import { Qcow2Image } from "../../../backing/qcow2/image.ts"
import { RawBacking } from "../../../backing/raw.ts"

/** The names are those of `qemu-img map --output=json`, and two more. */
export interface Part {
  /** Bytes of the disk. */
  readonly start: number
  readonly length: number
  /** Number of backing files down the chain. */
  readonly depth: number
  /** Allocated in some image of the chain. */
  readonly present: boolean
  readonly zero: boolean
  readonly data: boolean
  readonly compressed: boolean
  /** Byte offset in `filename`, if it is stored there as plain data. */
  readonly offset: number | undefined
  readonly filename: string | undefined
}

export interface PartRange {
  /** Bytes. */
  readonly offset: number
  readonly length: number
}

/** The parts of a range of `disk`, in order; contiguous ones are joined. */
export function* partsOf(disk: unknown, { offset, length }: PartRange): Generator<Part> {
  let pending: Part | undefined
  for (const part of layerParts({ disk, depth: 0, holes: new Map() }, offset, length)) {
    if (pending !== undefined && continues(pending, part)) {
      pending = { ...pending, length: pending.length + part.length }
    } else {
      if (pending !== undefined) yield pending
      pending = part
    }
  }
  if (pending !== undefined) yield pending
}

/** An image of the chain. */
interface Layer {
  readonly disk: unknown
  readonly depth: number
  /** The stored runs of raw files, by path. */
  readonly holes: Map<string, readonly DataExtent[]>
}

/** Bytes, in whole sectors. Undefined for a disk that is not ours. */
export function diskSize(disk: unknown): number {
  if (disk instanceof Qcow2Image) return disk.size
  return disk instanceof RawBacking ? Math.ceil(disk.size / 512) * 512 : 0
}

const NOTHING = { present: false, zero: true, data: false, compressed: false, offset: undefined, filename: undefined } as const

function* layerParts(layer: Layer, offset: number, length: number): Generator<Part> {
  const { disk, depth } = layer
  const size = diskSize(disk)
  const held = Math.max(Math.min(length, size - offset), 0)
  if (held > 0 && disk instanceof RawBacking) yield* rawParts(layer, disk, offset, held)
  if (held > 0 && disk instanceof Qcow2Image) yield* qcow2Parts(layer, disk, offset, held)
  // Beyond the end of a backing file, the image above counts as unallocated.
  if (held < length) yield { start: offset + held, length: length - held, depth: Math.max(depth - 1, 0), ...NOTHING }
}

function* rawParts({ depth, holes }: Layer, disk: RawBacking, offset: number, length: number): Generator<Part> {
  if (disk.isEncrypted) {
    yield {
      start: offset, length, depth, present: true, zero: false, data: true, compressed: false, offset: undefined, filename: undefined,
    }
    return
  }
  const filename = disk.path
  let extents = holes.get(filename)
  if (extents === undefined) holes.set(filename, (extents = dataExtents(filename)))
  const part = (start: number, end: number, data: boolean): Part =>
    ({ start, length: end - start, depth, present: true, zero: !data, data, compressed: false, offset: start, filename })
  const end = offset + length
  let at = offset
  for (let index = firstBehind(extents, offset); at < end; index++) {
    const extent = extents[index] ?? { start: end, end }
    if (extent.start > at) yield part(at, Math.min(extent.start, end), false)
    if (extent.start < end) yield part(Math.max(extent.start, at), Math.min(extent.end, end), true)
    at = extent.end
  }
}

/** The index of the first extent that ends after `offset`. */
function firstBehind(extents: readonly DataExtent[], offset: number): number {
  let [low, high] = [0, extents.length]
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    if ((extents[middle]?.end ?? Number.POSITIVE_INFINITY) > offset) high = middle
    else low = middle + 1
  }
  return low
}

function* qcow2Parts({ depth, holes }: Layer, image: Qcow2Image, offset: number, length: number): Generator<Part> {
  for (const extent of image.map(offset, length)) {
    const hasPlace = extent.hostOffset !== undefined && extent.kind !== "compressed"
    const place = { offset: hasPlace ? extent.hostOffset : undefined, filename: hasPlace ? (image.dataPath ?? image.path) : undefined }
    const part = { start: extent.offset, length: extent.length, depth, present: true, compressed: false }
    if (extent.kind === "data") yield { ...part, zero: false, data: true, ...place }
    else if (extent.kind === "compressed") yield { ...part, zero: false, data: true, compressed: true, ...place }
    else if (extent.kind === "zero") yield { ...part, zero: true, data: false, ...place }
    else if (image.backing === undefined) yield { ...part, ...NOTHING }
    else yield* layerParts({ disk: image.backing, depth: depth + 1, holes }, extent.offset, extent.length)
  }
}

/** Whether `next` begins where `part` ends, on the disk and in the file. */
function continues(part: Part, next: Part): boolean {
  const alike = part.depth === next.depth && part.present === next.present && part.zero === next.zero && part.data === next.data &&
    part.compressed === next.compressed
  return alike && part.filename === next.filename &&
    (part.offset === undefined ? next.offset === undefined : next.offset === part.offset + part.length)
}
