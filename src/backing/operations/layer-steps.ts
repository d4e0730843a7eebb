/** What commit, rebase and stream share: longer runs, layers by their names, and errors that say where things stand. */
import { BackingError } from "../backing.ts"
import { AwaitedDisk, type Kind } from "../paging/awaited-disk.ts"
import { decodeText } from "../qcow2/format/bytes.ts"
import { backingFormat } from "../qcow2/format/header.ts"
import { Qcow2Image } from "../qcow2/image.ts"
import type { BackingName } from "../qcow2/layers/change-backing.ts"
import { type LayerRun, layersOf } from "../qcow2/layers/layer-run.ts"
import type { BackingDisk } from "../qcow2/reader.ts"
import { RawBacking } from "../raw.ts"
import { undetected } from "../zeroes/detect-zeroes.ts"

/** Pieces that one run is put together from at most: each takes some microseconds. */
const MOST_PIECES = 256

/** A run of at most `range.length` bytes, from pieces that are alike. */
export function longRun(
  range: { readonly offset: number; readonly length: number },
  find: (offset: number, length: number) => LayerRun,
): LayerRun {
  const { offset, length } = range
  const { isOwn, isZero, length: first } = find(offset, length)
  let found = first
  for (let pieces = 1; pieces < MOST_PIECES && found < length; pieces++) {
    const next = find(offset + found, length - found)
    if (next.isOwn !== isOwn || next.isZero !== isZero) break
    found += next.length
  }
  return { length: found, isOwn, isZero }
}

/** A qcow2 image that is open in whatever way, and how synchronous work on it is done. */
export interface ReachedImage {
  readonly image: Qcow2Image
  /** Calls `work`, again and again while bytes are missing; it must be such that it can be called again. */
  perform<T>(kind: Kind, work: () => T): Promise<T>
  /** The image does not stand on `disk` any more. */
  retire(disk: BackingDisk): void
}

/** @throws TypeError for a disk that is no qcow2 image */
export function reachImage(who: string, given: object): ReachedImage {
  const disk = undetected(given)
  if (disk instanceof Qcow2Image) {
    return { image: disk, perform: async (_, work) => work(), retire: (old) => old.close() }
  }
  if (disk instanceof AwaitedDisk && disk.disk instanceof Qcow2Image) {
    // Somebody may wait for bytes of the old disk: it is closed with the whole.
    return { image: disk.disk, perform: async (kind, work) => await disk.perform(kind, work), retire: (old) => disk.closeLater(old) }
  }
  throw new TypeError(`${who}: the disk must be a qcow2 image, as openImage and openDisk open it`)
}

/** The qcow2 image that `disk` is, opened in whatever way; undefined for disks of other kinds. */
export function qcow2Of(given: object): Qcow2Image | undefined {
  const disk = undetected(given)
  const image = disk instanceof AwaitedDisk ? disk.disk : disk
  return image instanceof Qcow2Image ? image : undefined
}

/**
 * By what a qcow2 image looks up its content: another object once the image has changed as a whole. Then a snapshot may have been gone back
 * to. Undefined for disks of other kinds.
 */
export function tablesOf(disk: object): object | undefined {
  return qcow2Of(disk)?.inspect(({ mapping }) => mapping)
}

/** The image above `base` in the chain of `image`. */
function imageAbove(image: Qcow2Image, base: BackingDisk): Qcow2Image {
  for (const layer of layersOf(image)) if (layer instanceof Qcow2Image && layer.backing === base) return layer
  throw new Error("the layer is not in the chain of the image")
}

/**
 * The layer behind `image` that `name` means: the path by which it is open, or the name that the image above it has.
 * @throws BackingError `invalid-argument` when there is none
 */
export function findLayer(image: Qcow2Image, name: string, resolve: (above: Qcow2Image, name: string) => string): BackingDisk {
  let above = image
  for (const layer of layersOf(image)) {
    if (layer === image) continue
    const path = pathOf(layer)
    if (storedName(above) === name || path === name || (path !== undefined && path === resolve(image, name))) return layer
    if (layer instanceof Qcow2Image) above = layer
  }
  throw new BackingError("invalid-argument", `"${name}" is not in its chain of backing files`, { path: image.path })
}

function pathOf(layer: BackingDisk): string | undefined {
  return layer instanceof Qcow2Image || layer instanceof RawBacking ? layer.path : undefined
}

function storedName(image: Qcow2Image): string {
  const { backingFile } = image.header
  return backingFile === undefined ? "" : decodeText(backingFile)
}

/** How `image` is to name `base`, which is behind it: as the image above has it, with that one's folder where it is another. */
export function referenceTo(image: Qcow2Image, base: BackingDisk): BackingName {
  const above = imageAbove(image, base)
  const name = storedName(above)
  const format = backingFormat(above.header) ?? (base instanceof Qcow2Image ? "qcow2" : "raw")
  const [own, other] = [folderOf(image.path), folderOf(above.path)]
  const isRelative = !name.startsWith("/") && !/^[^/]*:/.test(name)
  return { name: isRelative && own !== other ? `${other}${name}` : name, format }
}

/** With the slash at its end; "" for a path without one. */
function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/") + 1)
}

/** `error`, with what it means for the whole operation, where it is a disk's. */
export function explained(error: unknown, meaning: string): unknown {
  if (!(error instanceof BackingError)) return error
  return new BackingError(error.code, `${error.message}; ${meaning}`, { cause: error })
}
