/** Sizes and limits of bitmaps: nobody would open an image with a larger one. */
import { BackingError } from "../../backing.ts"
import { BITMAP_LIMIT, tableEntriesFor } from "../format/bitmaps.ts"
import type { DirtyBitmap } from "./dirty-bitmap.ts"

/** Bytes of bits that all recording bitmaps may take in memory together, because a guest can touch all of them. */
const MOST_TRACKED = 2 ** 29

/** A disk of `size` bytes. */
interface SizedDisk {
  readonly size: number
  readonly clusterSize: number
}

/** Bytes of bits, in whole clusters, of a bitmap over the disk. */
export function bytesFor(granularityBits: number, { size, clusterSize }: SizedDisk): number {
  return tableEntriesFor(size, granularityBits, clusterSize) * clusterSize
}

/**
 * Refuses to resize the disk to `size` bytes with inconsistent bitmaps, or with ones that would be too large (QC-BMP-12).
 * @throws BackingError `unsupported`
 */
export function refuseResize(list: readonly DirtyBitmap[], disk: SizedDisk & { readonly path: string }): void {
  const refuse = (message: string): BackingError => new BackingError("unsupported", `${message}; remove it first`, { path: disk.path })
  const broken = list.find(({ isUsable }) => !isUsable)
  if (broken !== undefined) throw refuse(`bitmap "${broken.name}" is not consistent, so the disk cannot get another size`)
  const tooLarge = list.find(({ granularityBits }) => bytesFor(granularityBits, disk) > BITMAP_LIMIT.DATA_BYTES)
  if (tooLarge !== undefined) throw refuse(`bitmap "${tooLarge.name}" would be too large for a disk of ${disk.size} bytes`)
}

/** @param sizes bytes of bits of each recording bitmap. @throws BackingError `unsupported` if the sum is too large */
export function refuseMoreThanMost(sizes: readonly number[], { path }: { readonly path: string }): void {
  const bytes = sizes.reduce((sum, size) => sum + size, 0)
  if (bytes <= MOST_TRACKED) return
  const message = `its bitmaps take ${bytes} bytes, more than the ${MOST_TRACKED} that may record writes; remove or disable some of them`
  throw new BackingError("unsupported", message, { path })
}
