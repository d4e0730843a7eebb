/**
 * The structures of persistent dirty bitmaps: header extension, directory, tables. [QCOW2] "Bitmaps". Refuses what QEMU refuses (QC-BMP-01,
 * QC-BMP-05, QC-BMP-06), which also bounds allocations.
 */
import { BackingError } from "../../backing.ts"
import { decodeText, encodeText, getU64, roundUp, setU64, viewOf } from "../../bytes/fields.ts"
import { findExtension } from "./extensions.ts"
import type { Geometry } from "./geometry.ts"
import { hasFeature, type Qcow2Header } from "./header.ts"
import { AUTOCLEAR_BIT, EXTENSION_TYPE, TABLE_ENTRY_SIZE } from "./spec.ts"

const EXTENSION = { SIZE: 24, COUNT: 0, RESERVED: 4, DIRECTORY_SIZE: 8, DIRECTORY_OFFSET: 16 } as const

/** Fixed part of a directory entry. [QCOW2] "Bitmap directory" */
export const DIRECTORY_FIELD = {
  TABLE_OFFSET: 0, TABLE_SIZE: 8, FLAGS: 12, TYPE: 16, GRANULARITY_BITS: 17, NAME_SIZE: 18, EXTRA_DATA_SIZE: 20, EXTRA_DATA: 24,
} as const

/** Bits of the flags of a directory entry, as masks. */
export const BITMAP_FLAG = { IN_USE: 1, AUTO: 2, EXTRA_DATA_COMPATIBLE: 4 } as const

/** Table entry: bits 9-55 offset; bit 0 means all ones, only without an offset. [QCOW2] "Bitmap table" */
export const BITMAP_TABLE_ENTRY = {
  OFFSET_HI: 0x00ff_ffff, OFFSET_LO: 0xffff_fe00, RESERVED_HI: 0xff00_0000, RESERVED_LO: 0x0000_01fe, ALL_ONES_LO: 1,
} as const

export const BITMAP_LIMIT = {
  BITMAPS: 65535, DIRECTORY_BYTES: 67107840, TABLE_ENTRIES: 0x800_0000, DATA_BYTES: 0x2000_0000, NAME_BYTES: 1023,
  GRANULARITY_BITS_MIN: 9, GRANULARITY_BITS_MAX: 31,
} as const

const TYPE_DIRTY_TRACKING = 1
const ALIGNMENT = 8

/** The place of the bitmap directory. */
export interface BitmapDirectoryPlace {
  readonly offset: number
  readonly length: number
  /** Number of bitmaps. */
  readonly count: number
}

export interface BitmapEntry {
  readonly tableOffset: number
  /** Words in the table. */
  readonly tableEntries: number
  readonly flags: number
  readonly granularityBits: number
  readonly name: string
  /** Preserved unchanged. */
  readonly extraData: Uint8Array
}

/** The directory that the header names, if the autoclear bit says that it is valid (QC-BMP-02). Unchecked. */
export function bitmapDirectoryPlace(header: Qcow2Header): BitmapDirectoryPlace | undefined {
  if (!hasFeature(header.autoclearFeatures, AUTOCLEAR_BIT.BITMAPS)) return undefined
  const data = findExtension(header.extensions, EXTENSION_TYPE.BITMAPS)
  if (data === undefined || data.length < EXTENSION.SIZE) return undefined
  const view = viewOf(data)
  return {
    count: view.getUint32(EXTENSION.COUNT),
    length: getU64(view, EXTENSION.DIRECTORY_SIZE),
    offset: getU64(view, EXTENSION.DIRECTORY_OFFSET),
  }
}

/** `bitmapDirectoryPlace`, checked. @throws BackingError `invalid-format` */
export function checkedDirectoryPlace(header: Qcow2Header, path: string): BitmapDirectoryPlace | undefined {
  if (!hasFeature(header.autoclearFeatures, AUTOCLEAR_BIT.BITMAPS)) return undefined
  const data = findExtension(header.extensions, EXTENSION_TYPE.BITMAPS)
  if (data === undefined) return undefined
  const refuse = (problem: string): BackingError =>
    new BackingError("invalid-format", `the bitmaps header extension ${problem}; open the image read-only`, { path })
  if (data.length !== EXTENSION.SIZE) throw refuse(`has ${data.length} bytes, and not ${EXTENSION.SIZE}`)
  const place = bitmapDirectoryPlace(header) ?? { offset: 0, length: 0, count: 0 }
  if (place.count === 0 || place.count > BITMAP_LIMIT.BITMAPS) {
    throw refuse(`counts ${place.count} bitmaps, not 1 to ${BITMAP_LIMIT.BITMAPS}`)
  }
  if (viewOf(data).getUint32(EXTENSION.RESERVED) !== 0) throw refuse("has reserved bits set")
  if (place.length > BITMAP_LIMIT.DIRECTORY_BYTES) throw refuse(`names a directory of ${place.length} bytes`)
  if (place.offset % 2 ** header.clusterBits !== 0 || !Number.isSafeInteger(place.offset + place.length) || place.offset === 0) {
    throw refuse(`names a directory at byte ${place.offset}, which is not a cluster`)
  }
  return place
}

/** Encodes the header extension for a directory. */
export function encodeBitmapsExtension({ offset, length, count }: BitmapDirectoryPlace): Uint8Array {
  const data = new Uint8Array(EXTENSION.SIZE)
  const view = viewOf(data)
  view.setUint32(EXTENSION.COUNT, count)
  setU64(view, EXTENSION.DIRECTORY_SIZE, length)
  setU64(view, EXTENSION.DIRECTORY_OFFSET, offset)
  return data
}

/** Bytes of a directory entry for that name, without extra data. */
export function directoryEntryBytes(name: string): number {
  return entryLength(encodeText(name).length, 0)
}

/** Bytes of an entry. */
function entryLength(nameLength: number, extraLength: number): number {
  return roundUp(DIRECTORY_FIELD.EXTRA_DATA + nameLength + extraLength, ALIGNMENT)
}

/**
 * The entries of a directory, each with the byte of the directory where it begins.
 * @throws BackingError `invalid-format` for a directory that QEMU refuses, except for its extra data
 */
export function decodeDirectory(
  bytes: Uint8Array, count: number, context: { readonly geometry: Geometry; readonly path: string },
): { readonly entry: BitmapEntry; readonly at: number }[] {
  const refuse = (problem: string): BackingError =>
    new BackingError("invalid-format", `the bitmap directory ${problem}; open the image read-only`, { path: context.path })
  const entries: { entry: BitmapEntry; at: number }[] = []
  const names = new Set<string>()
  const view = viewOf(bytes)
  let at = 0
  for (let index = 0; index < count; index++) {
    if (at + DIRECTORY_FIELD.EXTRA_DATA > bytes.length) throw refuse(`ends after ${index} of ${count} bitmaps`)
    const nameLength = view.getUint16(at + DIRECTORY_FIELD.NAME_SIZE)
    const extraLength = view.getUint32(at + DIRECTORY_FIELD.EXTRA_DATA_SIZE)
    const length = entryLength(nameLength, extraLength)
    if (at + length > bytes.length) throw refuse(`ends inside of bitmap ${index}`)
    const nameAt = at + DIRECTORY_FIELD.EXTRA_DATA + extraLength
    const entry: BitmapEntry = {
      tableOffset: getU64(view, at + DIRECTORY_FIELD.TABLE_OFFSET),
      tableEntries: view.getUint32(at + DIRECTORY_FIELD.TABLE_SIZE),
      flags: view.getUint32(at + DIRECTORY_FIELD.FLAGS),
      granularityBits: view.getUint8(at + DIRECTORY_FIELD.GRANULARITY_BITS),
      name: decodeText(bytes.subarray(nameAt, nameAt + nameLength)),
      extraData: bytes.slice(at + DIRECTORY_FIELD.EXTRA_DATA, nameAt),
    }
    const problem = view.getUint8(at + DIRECTORY_FIELD.TYPE) === TYPE_DIRTY_TRACKING
      ? entryProblem(entry, context.geometry)
      : "is of an unknown type"
    if (problem !== undefined) throw refuse(`has bitmap ${index} ("${entry.name}"), which ${problem}`)
    if (names.has(entry.name)) throw refuse(`has two bitmaps "${entry.name}"`)
    names.add(entry.name)
    entries.push({ entry, at })
    at += length
  }
  if (at !== bytes.length) throw refuse(`has ${bytes.length} bytes, and its ${count} bitmaps take ${at}`)
  return entries
}

function entryProblem(entry: BitmapEntry, geometry: Geometry): string | undefined {
  const { tableOffset, tableEntries, flags, granularityBits, name } = entry
  const { GRANULARITY_BITS_MIN, GRANULARITY_BITS_MAX, TABLE_ENTRIES, DATA_BYTES, NAME_BYTES } = BITMAP_LIMIT
  if (name === "" || encodeText(name).length > NAME_BYTES) return "has no name, or a too long one"
  if ((flags & ~(BITMAP_FLAG.IN_USE | BITMAP_FLAG.AUTO | BITMAP_FLAG.EXTRA_DATA_COMPATIBLE)) !== 0) return "has reserved flags set"
  if (granularityBits < GRANULARITY_BITS_MIN || granularityBits > GRANULARITY_BITS_MAX) return `has granularity_bits ${granularityBits}`
  if (tableEntries === 0 || tableEntries > TABLE_ENTRIES || tableEntries * geometry.clusterSize > DATA_BYTES) {
    return `has a table of ${tableEntries} entries`
  }
  const isPlaced = tableOffset !== 0 && tableOffset % geometry.clusterSize === 0
  if (!isPlaced || !Number.isSafeInteger(tableOffset + tableEntries * TABLE_ENTRY_SIZE)) {
    return `has a table at byte ${tableOffset}, which is not a cluster`
  }
  const needed = tableEntriesFor(geometry.size, granularityBits, geometry.clusterSize)
  if ((flags & BITMAP_FLAG.IN_USE) === 0 && tableEntries !== needed) return `has a table of ${tableEntries} entries, and not ${needed}`
  return undefined
}

/** Words of the table of a bitmap over `size` bytes (QC-BMP-08); at least one. */
export function tableEntriesFor(size: number, granularityBits: number, clusterSize: number): number {
  const bytes = Math.ceil(Math.ceil(size / 2 ** granularityBits) / 8)
  return Math.max(1, Math.ceil(bytes / clusterSize))
}

/** Encodes a directory of these bitmaps. */
export function encodeDirectory(entries: readonly BitmapEntry[]): Uint8Array {
  const parts = entries.map((entry) => ({ entry, name: encodeText(entry.name) }))
  const bytes = new Uint8Array(parts.reduce((sum, { entry, name }) => sum + entryLength(name.length, entry.extraData.length), 0))
  const view = viewOf(bytes)
  let at = 0
  for (const { entry, name } of parts) {
    setU64(view, at + DIRECTORY_FIELD.TABLE_OFFSET, entry.tableOffset)
    view.setUint32(at + DIRECTORY_FIELD.TABLE_SIZE, entry.tableEntries)
    view.setUint32(at + DIRECTORY_FIELD.FLAGS, entry.flags)
    view.setUint8(at + DIRECTORY_FIELD.TYPE, TYPE_DIRTY_TRACKING)
    view.setUint8(at + DIRECTORY_FIELD.GRANULARITY_BITS, entry.granularityBits)
    view.setUint16(at + DIRECTORY_FIELD.NAME_SIZE, name.length)
    view.setUint32(at + DIRECTORY_FIELD.EXTRA_DATA_SIZE, entry.extraData.length)
    bytes.set(entry.extraData, at + DIRECTORY_FIELD.EXTRA_DATA)
    bytes.set(name, at + DIRECTORY_FIELD.EXTRA_DATA + entry.extraData.length)
    at += entryLength(name.length, entry.extraData.length)
  }
  return bytes
}

/** The meaning of an entry of a bitmap table, which describes one cluster of bits. */
export type BitmapWord = { readonly kind: "zeroes" | "ones" } | {
  readonly kind: "data"
  readonly offset: number
} | { readonly kind: "corrupt" }

export function decodeBitmapWord(hi: number, lo: number, clusterSize: number): BitmapWord {
  const { OFFSET_HI, OFFSET_LO, RESERVED_HI, RESERVED_LO, ALL_ONES_LO } = BITMAP_TABLE_ENTRY
  const offset = (hi & OFFSET_HI) * 2 ** 32 + ((lo & OFFSET_LO) >>> 0)
  const isOnes = (lo & ALL_ONES_LO) !== 0
  if ((hi & RESERVED_HI) !== 0 || (lo & RESERVED_LO) !== 0 || (isOnes && offset !== 0)) return { kind: "corrupt" }
  if (offset === 0) return { kind: isOnes ? "ones" : "zeroes" }
  return offset % clusterSize === 0 && Number.isSafeInteger(offset + clusterSize) ? { kind: "data", offset } : { kind: "corrupt" }
}
