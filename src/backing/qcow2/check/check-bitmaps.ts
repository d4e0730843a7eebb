/** Counts the references of persistent bitmaps: directory, tables and data (QC-BMP-01 to 07). Does not read the bits. */
import { BackingError } from "../../backing.ts"
import {
  BITMAP_LIMIT, BITMAP_TABLE_ENTRY, type BitmapDirectoryPlace, checkedDirectoryPlace, decodeDirectory, DIRECTORY_FIELD,
} from "../format/bitmaps.ts"
import { getU64, roundUp, viewOf } from "../../bytes/fields.ts"
import type { CheckedImage } from "./checked-image.ts"
import { coveredRanges, type Range } from "./covered-ranges.ts"
import { type ReferenceSink, STRUCTURE } from "./reference-sink.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { readPadded, visitWords } from "./table-reader.ts"

const ALIGNMENT = 8

/** Counts the references of all bitmaps. */
export function countBitmapReferences(image: CheckedImage, directory: BitmapDirectoryPlace, sink: ReferenceSink): void {
  const { offset, length } = directory
  if (length > BITMAP_LIMIT.DIRECTORY_BYTES || offset % image.geometry.clusterSize !== 0 || !Number.isSafeInteger(offset + length)) {
    sink.reportUnfollowed("bitmap", `the bitmap directory of ${length} bytes at byte ${offset} is invalid`, offset)
    return
  }
  sink.add(STRUCTURE.BITMAP_DIRECTORY, offset, length)
  const { tables, isWhole } = readTables(image, directory, sink)
  const problem = isWhole ? refusal(image, directory) : undefined
  if (problem !== undefined) sink.reportUnfollowed("bitmap", `the bitmaps cannot be used: ${problem}`, offset)
  sink.addAll(STRUCTURE.BITMAP_TABLE, tables)
  for (const { start, end, times } of coveredRanges(tables)) {
    visitWords(image.file, start, (end - start) / TABLE_ENTRY_SIZE, (hi, lo, at) => countTableEntry(hi, lo, at, times, image, sink))
  }
}

/** Why the bitmaps prevent opening the image for writing, or undefined. */
function refusal({ file, header, geometry }: CheckedImage, { offset, length, count }: BitmapDirectoryPlace): string | undefined {
  const bytes = new Uint8Array(length)
  readPadded(file, bytes, offset)
  try {
    checkedDirectoryPlace(header, file.path)
    decodeDirectory(bytes, count, { geometry, path: file.path })
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    return error.message
  }
  return undefined
}

interface ReadTables {
  readonly tables: readonly Range[]
  /** No part of the directory had to be left out. */
  readonly isWhole: boolean
}

function readTables(image: CheckedImage, directory: BitmapDirectoryPlace, sink: ReferenceSink): ReadTables {
  let isWhole = true
  const tables: Range[] = []
  const fixed = new Uint8Array(DIRECTORY_FIELD.EXTRA_DATA)
  const view = viewOf(fixed)
  const end = Math.min(directory.offset + directory.length, image.fileSize)
  let at = directory.offset
  for (let index = 0; index < directory.count; index++) {
    if (at + fixed.length > end) {
      isWhole = false
      sink.reportUnfollowed(
        "bitmap",
        `the bitmap directory at byte ${directory.offset} ends after ${index} of ${directory.count} bitmaps`,
        directory.offset,
      )
      break
    }
    readPadded(image.file, fixed, at)
    const offset = getU64(view, DIRECTORY_FIELD.TABLE_OFFSET)
    const entries = view.getUint32(DIRECTORY_FIELD.TABLE_SIZE)
    const aligned = offset % image.geometry.clusterSize === 0 &&
      offset <= Number.MAX_SAFE_INTEGER - BITMAP_LIMIT.TABLE_ENTRIES * TABLE_ENTRY_SIZE
    if (!aligned || entries > BITMAP_LIMIT.TABLE_ENTRIES) {
      isWhole = false
      sink.reportUnfollowed(
        "bitmap",
        `bitmap ${index} at byte ${at} has an invalid table of ${entries} entries at byte ${offset}`,
        at,
      )
    } else {
      tables.push({ start: offset, end: offset + entries * TABLE_ENTRY_SIZE })
    }
    const length = fixed.length + view.getUint32(DIRECTORY_FIELD.EXTRA_DATA_SIZE) + view.getUint16(DIRECTORY_FIELD.NAME_SIZE)
    at += roundUp(length, ALIGNMENT)
  }
  return { tables, isWhole }
}

function countTableEntry(hi: number, lo: number, at: number, times: number, image: CheckedImage, sink: ReferenceSink): void {
  const offset = (hi & BITMAP_TABLE_ENTRY.OFFSET_HI) * 2 ** 32 + ((lo & BITMAP_TABLE_ENTRY.OFFSET_LO) >>> 0)
  const reserved = (hi & BITMAP_TABLE_ENTRY.RESERVED_HI) !== 0 || (lo & BITMAP_TABLE_ENTRY.RESERVED_LO) !== 0
  if (reserved || (offset !== 0 && (lo & BITMAP_TABLE_ENTRY.ALL_ONES_LO) !== 0)) {
    sink.report("bitmap", `the bitmap table entry at byte ${at} has reserved bits set`, at)
  }
  if (offset === 0) return
  if (offset % image.geometry.clusterSize !== 0 || offset > Number.MAX_SAFE_INTEGER - image.geometry.clusterSize) {
    sink.reportUnfollowed("bitmap", `the bitmap table entry at byte ${at} points to byte ${offset}, which is not a cluster`, at)
    return
  }
  sink.add(STRUCTURE.BITMAP_DATA, offset, image.geometry.clusterSize, times, at)
}
