/**
 * Changes the size of an open image's disk (QC-RSZ-01 to 06). The size in the header changes last when the disk grows, and first when it
 * shrinks.
 */
import { checkOptions, checkValue, type Rules } from "../../../options.ts"
import { BackingError, checkNewSize } from "../../backing.ts"
import { isZero } from "../../bytes/buffers.ts"
import { roundUp } from "../../bytes/fields.ts"
import { isDataFileRaw } from "../format/header.ts"
import { readSnapshotTable } from "../format/snapshot-table.ts"
import { LIMIT, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { cutTree } from "../snapshots/active-tree.ts"
import { rewrite } from "../snapshots/rewrite.ts"
import type { WholeImage, WritableImage } from "../snapshots/whole-image.ts"
import { compact } from "./compact.ts"
import { preallocate, type Preallocation } from "./preallocate.ts"

/** Options of `resize`. */
export interface ResizeImageOptions {
  /** Allows a smaller size: the data past the new end is lost. Default false. */
  readonly shrink?: boolean
  /**
   * For the new part: "off": nothing. "metadata": allocates every cluster in the file, which stays sparse. "falloc": the host reserves the
   * space. "full": writes zeroes. Default "off".
   */
  readonly preallocation?: Preallocation
}

const RESIZE_RULES: Rules<ResizeImageOptions> = { shrink: "boolean?", preallocation: ["off", "metadata", "falloc", "full"] }

/**
 * Changes the size of the disk to `size` bytes. The new part reads as zeroes, even after an earlier cut, and over a longer backing image. A
 * crash leaves the old size or the new one.
 * @throws BackingError `invalid-argument` for an invalid size, or a smaller one without `shrink`; `unsupported` if the format does not
 * allow it
 */
export function resizeImage(image: WholeImage, size: number, options: ResizeImageOptions = {}): void {
  checkValue("resize", "size", size, "number")
  checkOptions("resize", options, RESIZE_RULES)
  const parts = image.writable()
  const { shrink = false, preallocation = "off" } = options
  const before = image.header.size
  check(image, parts, size, options)
  if (size > before) grow(image, size, preallocation)
  else if (size < before || shrink) cut(image, size)
}

function check(image: WholeImage, { geometry, reader }: WritableImage, size: number, options: ResizeImageOptions): void {
  const { header } = image
  const { shrink = false, preallocation = "off" } = options
  const refuse = (message: string, code: "invalid-argument" | "unsupported" = "invalid-argument"): never => {
    throw new BackingError(code, message, { path: image.file.path })
  }
  checkNewSize({ before: header.size, size, shrink, path: image.file.path })
  const most = (LIMIT.L1_TABLE_BYTES / TABLE_ENTRY_SIZE) * geometry.l2Coverage
  if (size > most) refuse(`a disk of ${size} bytes is too large for clusters of ${geometry.clusterSize} bytes, which allow ${most} at most`)
  if (size === header.size) return
  if (size < header.size && preallocation !== "off") refuse("a disk that shrinks has nothing to preallocate")
  if (header.version < 3 && header.snapshotCount > 0) {
    refuse("an image of version 2 with snapshots cannot be resized; change it to version 3 with amend -o compat=1.1", "unsupported")
  }
  if (preallocation === "off") return
  if (reader.backing !== undefined && !geometry.extendedL2) refuse("preallocation would hide the backing image; leave it off")
}

function grow(image: WholeImage, size: number, preallocation: Preallocation): void {
  const before = image.header.size
  growL1(image, before, size)
  // Removes what an earlier cut may have left there (QC-RSZ-05).
  image.dataFile?.cutTo(before)
  image.setSize(size)
  let isDone = false
  try {
    const grown = image.writable()
    zeroNewArea(grown, before, size)
    const mode = preallocation === "off" && isDataFileRaw(image.header) ? "metadata" : preallocation
    if (mode !== "off") preallocate(grown, image.dataFile ?? image.file, { from: before, to: size, mode })
    image.dataFile?.growTo(size)
    grown.metadataWriter.finish()
    image.storeSize(size)
    isDone = true
  } finally {
    // Clusters that are mapped past the end by now are unused, and the next attempt removes them.
    if (!isDone) image.setSize(before)
  }
}

/** Enlarges the L1 table, and removes old entries past the end: a VM state, or those of a failed attempt. */
function growL1(image: WholeImage, before: number, size: number): void {
  rewrite(image, readSnapshotTable(image.imageFile, image.header), (change) => {
    const { l2Coverage, clusterSize } = change.geometry
    const old = change.activeL1()
    const l1 = new Uint8Array(Math.max(old.length, Math.ceil(size / l2Coverage) * TABLE_ENTRY_SIZE))
    l1.set(old)
    if (!cutTree(change, l1, Math.ceil(before / clusterSize)) && l1.length === old.length) return
    change.leave(image.header.l1TableOffset, old.length)
    change.finish({ l1: { offset: change.put(l1), bytes: l1 } })
  })
}

/**
 * Makes bytes from `before` to `size` zero: the rest of the last cluster, and the part that a longer backing image would show (QC-RSZ-03).
 */
function zeroNewArea({ geometry, reader, writer, zeroing }: WritableImage, before: number, size: number): void {
  const { clusterSize } = geometry
  const start = roundUp(before, clusterSize)
  zeroTail({ reader, writer }, before, Math.min(start, size))
  const end = Math.min(roundUp(reader.hiddenEnd, clusterSize), size)
  if (start < end) zeroing.writeZeroes(start, end - start, true)
}

function zeroTail({ reader, writer }: Pick<WritableImage, "reader" | "writer">, from: number, to: number): void {
  const tail = new Uint8Array(to - from)
  reader.readInto(tail, 0, tail.length, from)
  const mayNextShow = reader.hiddenEnd > Math.max(from, reader.backingEnd)
  if (mayNextShow || !isZero(tail)) writer.write([tail.fill(0)], from, tail.length)
}

/** Cuts the disk. One switch of the header changes the size and removes all clusters past the new end. */
function cut(image: WholeImage, size: number): void {
  const { clusterSize } = image.writable().geometry
  const end = image.file.usedEnd
  rewrite(image, readSnapshotTable(image.imageFile, image.header), (change) => {
    const l1 = change.activeL1()
    const isCut = cutTree(change, l1, Math.ceil(size / clusterSize))
    if (isCut) change.leave(image.header.l1TableOffset, l1.length)
    if (isCut || size !== image.header.size) change.finish(isCut ? { size, l1: { offset: change.put(l1), bytes: l1 } } : { size })
  })
  // Another program that grows the disk again may show the rest of the last cluster (QC-RSZ-05).
  if (size % clusterSize !== 0) zeroTail(image.writable(), size, roundUp(size, clusterSize))
  image.writable().metadataWriter.finish()
  image.dataFile?.cutTo(size)
  compact(image, end)
  const { metadataWriter, refcounts, trailer } = image.writable()
  metadataWriter.finish()
  if (trailer.settle({ mayGoDown: true })) return
  const used = refcounts.endOfUse(Math.ceil(image.file.usedEnd / clusterSize))
  image.file.cutTo(Math.max(1, used) * clusterSize)
}
