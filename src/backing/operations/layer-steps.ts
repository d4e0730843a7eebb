/** The common parts of commit, rebase and stream: longer runs, layers by name, and errors that describe the present state. */
import { BackingError } from "../backing.ts"
import { AwaitedDisk, type Kind } from "../paging/awaited-disk.ts"
import { decodeText } from "../bytes/fields.ts"
import { backingFormat } from "../qcow2/format/header.ts"
import { Qcow2Image } from "../qcow2/image.ts"
import type { BackingName } from "../qcow2/layers/change-backing.ts"
import { type LayerRun, layersOf } from "../qcow2/layers/layer-run.ts"
import type { BackingDisk } from "../qcow2/reader.ts"
import { RawBacking } from "../raw.ts"
import { undetected } from "../zeroes/detect-zeroes.ts"

/** Maximum of pieces in one run: each takes some microseconds. */
const MOST_PIECES = 256

/** A run of at most `range.length` bytes, joined from pieces of the same kind. */
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

/** A qcow2 image, opened in any way, and a method for synchronous work on it. */
export interface ReachedImage {
  readonly image: Qcow2Image
  /** Calls `work`, repeatedly while bytes have to be loaded, so `work` must be repeatable. */
  perform<T>(kind: Kind, work: () => T): Promise<T>
  /** `disk` is no longer in the image's chain. */
  retire(disk: BackingDisk): void
}

/** @throws TypeError for a disk that is not a qcow2 image */
export function reachImage(who: string, given: object): ReachedImage {
  const disk = undetected(given)
  if (disk instanceof Qcow2Image) {
    return { image: disk, perform: async (_, work) => work(), retire: (old) => old.close() }
  }
  if (disk instanceof AwaitedDisk && disk.disk instanceof Qcow2Image) {
    // A call may still wait for bytes of the old disk, so it is closed later, with the whole chain.
    return { image: disk.disk, perform: async (kind, work) => await disk.perform(kind, work), retire: (old) => disk.closeLater(old) }
  }
  throw new TypeError(`${who}: the disk must be a qcow2 image, as openImage and openDisk open it`)
}

/** `disk` as a qcow2 image, opened in any way; undefined for other disks. */
export function qcow2Of(given: object): Qcow2Image | undefined {
  const disk = undetected(given)
  const image = disk instanceof AwaitedDisk ? disk.disk : disk
  return image instanceof Qcow2Image ? image : undefined
}

/**
 * The object by which a qcow2 image finds its content. It is replaced when the whole image changes, for instance when a snapshot is
 * applied. Undefined for other disks.
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
 * The layer below `image` with this `name`: the path by which it is open, or its name in the image above.
 * @throws BackingError `invalid-argument` if there is none
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

/** The name for `base` in `image`: its name in the image above it, with the folder of that image if it differs. */
export function referenceTo(image: Qcow2Image, base: BackingDisk): BackingName {
  const above = imageAbove(image, base)
  const name = storedName(above)
  const format = backingFormat(above.header) ?? (base instanceof Qcow2Image ? "qcow2" : "raw")
  const [own, other] = [folderOf(image.path), folderOf(above.path)]
  const isRelative = !name.startsWith("/") && !/^[^/]*:/.test(name)
  return { name: isRelative && own !== other ? `${other}${name}` : name, format }
}

/** The folder of a path, with the slash at its end; "" for a path without one. */
function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/") + 1)
}

/** Adds the consequence for the whole operation to `error`, if it is a disk's. */
export function explained(error: unknown, meaning: string): unknown {
  if (!(error instanceof BackingError)) return error
  return new BackingError(error.code, `${error.message}; ${meaning}`, { cause: error })
}
