/** Makes new qcow2 images: header, refcounts, an empty L1 table and, if requested, the whole mapping. */
import { BackingError } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"
import type { Cryptography } from "../luks/cryptography.ts"
import { checkLuksOptions, makeVolume, type NewVolume } from "../luks/new-volume.ts"
import { requireCryptography } from "../luks/raw-luks.ts"
import { checkCreateOptions, type CreateQcow2Options } from "./create-options.ts"
import { encodeText, setU64, viewOf } from "../bytes/fields.ts"
import { encodeEntry } from "./format/entries.ts"
import type { HeaderExtension } from "./format/extensions.ts"
import type { Geometry } from "./format/geometry.ts"
import { type Qcow2Header, serialiseHeader } from "./format/header.ts"
import { refcountCodec } from "./format/refcount-codec.ts"
import {
  AUTOCLEAR_BIT,
  COMPATIBLE_BIT,
  COMPRESSION_TYPE,
  CRYPT_METHOD,
  EXTENDED_L2,
  EXTENSION_TYPE,
  FEATURE_NAME,
  HEADER_FIELD,
  HEADER_SIZE,
  INCOMPATIBLE_BIT,
  L2_ENTRY,
  LIMIT,
  TABLE_ENTRY_SIZE,
} from "./format/spec.ts"
import { ALL_SUBCLUSTERS } from "./format/subclusters.ts"

export { CREATE_QCOW2_RULES, type CreateQcow2Options } from "./create-options.ts"

/** Sizes of the parts in clusters, in the order of the file. */
interface Layout {
  readonly refcountTable: number
  readonly refcountBlocks: number
  readonly l1Table: number
  /** The LUKS header and its key material. */
  readonly encryption: number
  readonly l2Tables: number
  /** Clusters of guest data in this file. */
  readonly data: number
  readonly total: number
}

/**
 * Writes a new image into `file`, which is empty. The header is written last, so that nobody takes a half-made file for an image.
 * @param cryptography what encryption needs of the platform
 * @throws BackingError `invalid-argument`, or `unsupported` if the platform lacks the cryptography; nothing has been written then
 */
export function createQcow2(file: ImageFile, options: CreateQcow2Options, cryptography?: Cryptography): void {
  const { encryption } = options
  if (encryption !== undefined) checkLuksOptions("createQcow2", encryption)
  const geometry = checkCreateOptions(options, file.path)
  const volume = encryption && makeVolume(encryption, requireCryptography(cryptography, file.path), file.path)
  const preallocate = options.preallocation === "metadata" || options.dataFileRaw === true
  const layout = planLayout(geometry, { preallocate, encryptionBytes: volume?.length ?? 0 }, file.path)
  const header = makeHeader(options, geometry, { ...layout, volume })
  const start = serialiseHeader(header, file.path)
  const { clusterSize } = geometry
  // Comes first, so that the host refuses an impossible size before gigabytes of tables are written.
  file.truncate(layout.total * clusterSize)
  let offset = clusterSize
  writeRefcounts(file, geometry, layout, offset)
  offset += (layout.refcountTable + layout.refcountBlocks) * clusterSize
  writeMapping(file, { geometry, layout, offset, showsAll: options.dataFileRaw === true })
  for (const piece of volume?.pieces ?? []) file.write(piece.bytes, encryptionOffset(layout, geometry) + piece.offset)
  file.sync()
  file.write(start, 0)
  file.sync()
}

/** Byte of the LUKS header. */
function encryptionOffset({ refcountTable, refcountBlocks, l1Table }: Layout, { clusterSize }: Geometry): number {
  return (1 + refcountTable + refcountBlocks + l1Table) * clusterSize
}

function planLayout(
  geometry: Geometry, { preallocate, encryptionBytes }: { readonly preallocate: boolean; readonly encryptionBytes: number }, path: string,
): Layout {
  const { clusterSize } = geometry
  const encryption = Math.ceil(encryptionBytes / clusterSize)
  const l1Table = Math.ceil((geometry.l1EntriesNeeded * TABLE_ENTRY_SIZE) / clusterSize)
  const data = preallocate && !geometry.hasDataFile ? Math.ceil(geometry.size / clusterSize) : 0
  const l2Tables = preallocate ? geometry.l1EntriesNeeded : 0
  let refcountTable = 1
  let refcountBlocks = 1
  for (;;) {
    const total = 1 + refcountTable + refcountBlocks + l1Table + encryption + l2Tables + data
    const blocks = Math.ceil(total / geometry.refcountBlockEntries)
    const table = Math.ceil((blocks * TABLE_ENTRY_SIZE) / clusterSize)
    if (table * clusterSize > LIMIT.REFCOUNT_TABLE_BYTES || !Number.isSafeInteger(total * clusterSize)) {
      throw new BackingError(
        "invalid-argument",
        `the preallocated image would need more refcounts than ${LIMIT.REFCOUNT_TABLE_BYTES} bytes of refcount table hold; ` +
          "use larger clusters",
        { path },
      )
    }
    if (blocks === refcountBlocks && table === refcountTable) {
      return { refcountTable, refcountBlocks, l1Table, encryption, l2Tables, data, total }
    }
    refcountBlocks = blocks
    refcountTable = table
  }
}

interface FilledLayout extends Layout {
  readonly volume: NewVolume | undefined
}

function makeHeader(options: CreateQcow2Options, geometry: Geometry, layout: FilledLayout): Qcow2Header {
  const { version, clusterSize } = geometry
  const headerLength = version === 2 ? HEADER_SIZE.V2 : HEADER_SIZE.V3_WRITTEN
  return {
    version,
    clusterBits: geometry.clusterBits,
    size: geometry.size,
    cryptMethod: layout.volume === undefined ? CRYPT_METHOD.NONE : CRYPT_METHOD.LUKS,
    l1Size: geometry.l1EntriesNeeded,
    l1TableOffset: layout.l1Table === 0 ? 0 : (1 + layout.refcountTable + layout.refcountBlocks) * clusterSize,
    refcountTableOffset: clusterSize,
    refcountTableClusters: layout.refcountTable,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatibleFeatures: incompatibleFeatures(options, geometry),
    compatibleFeatures: options.lazyRefcounts === true ? 1n << BigInt(COMPATIBLE_BIT.LAZY_REFCOUNTS) : 0n,
    autoclearFeatures: options.dataFileRaw === true ? 1n << BigInt(AUTOCLEAR_BIT.RAW_EXTERNAL_DATA) : 0n,
    refcountOrder: geometry.refcountOrder,
    headerLength,
    compressionType: options.compressionType === "zstd" ? COMPRESSION_TYPE.ZSTD : COMPRESSION_TYPE.ZLIB,
    trailing: new Uint8Array(Math.max(0, headerLength - HEADER_FIELD.COMPRESSION_TYPE - 1)),
    extensions: makeExtensions(options, geometry, layout),
    backingFile: options.backing === undefined ? undefined : encodeText(options.backing),
  }
}

function incompatibleFeatures(options: CreateQcow2Options, geometry: Geometry): bigint {
  return (geometry.extendedL2 ? 1n << BigInt(INCOMPATIBLE_BIT.EXTENDED_L2) : 0n) |
    (geometry.hasDataFile ? 1n << BigInt(INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE) : 0n) |
    (options.compressionType === "zstd" ? 1n << BigInt(INCOMPATIBLE_BIT.COMPRESSION_TYPE) : 0n)
}

function makeExtensions(options: CreateQcow2Options, geometry: Geometry, layout: FilledLayout): HeaderExtension[] {
  const extensions: HeaderExtension[] = []
  if (options.backingFormat !== undefined) extensions.push({ type: EXTENSION_TYPE.BACKING_FORMAT, data: encodeText(options.backingFormat) })
  if (options.dataFile !== undefined) extensions.push({ type: EXTENSION_TYPE.EXTERNAL_DATA_FILE_NAME, data: encodeText(options.dataFile) })
  if (layout.volume !== undefined) {
    const data = new Uint8Array(16)
    setU64(viewOf(data), 0, encryptionOffset(layout, geometry))
    setU64(viewOf(data), 8, layout.volume.length)
    extensions.push({ type: EXTENSION_TYPE.FULL_DISK_ENCRYPTION, data })
  }
  // A small first cluster needs its space for other things: QEMU leaves the table out as well (QC-EXT-08).
  if (geometry.version === 3 && geometry.clusterSize > 4096) {
    extensions.push({ type: EXTENSION_TYPE.FEATURE_NAME_TABLE, data: featureNameTable() })
  }
  return extensions
}

function featureNameTable(): Uint8Array {
  const { TYPE_INCOMPATIBLE, TYPE_COMPATIBLE, TYPE_AUTOCLEAR, ENTRY_SIZE } = FEATURE_NAME
  const features: readonly (readonly [number, number, string])[] = [
    [TYPE_INCOMPATIBLE, INCOMPATIBLE_BIT.DIRTY, "dirty bit"],
    [TYPE_INCOMPATIBLE, INCOMPATIBLE_BIT.CORRUPT, "corrupt bit"],
    [TYPE_INCOMPATIBLE, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE, "external data file"],
    [TYPE_INCOMPATIBLE, INCOMPATIBLE_BIT.COMPRESSION_TYPE, "compression type"],
    [TYPE_INCOMPATIBLE, INCOMPATIBLE_BIT.EXTENDED_L2, "extended L2 entries"],
    [TYPE_COMPATIBLE, COMPATIBLE_BIT.LAZY_REFCOUNTS, "lazy refcounts"],
    [TYPE_AUTOCLEAR, AUTOCLEAR_BIT.BITMAPS, "bitmaps"],
    [TYPE_AUTOCLEAR, AUTOCLEAR_BIT.RAW_EXTERNAL_DATA, "raw external data"],
  ]
  const table = new Uint8Array(features.length * ENTRY_SIZE)
  features.forEach(([type, bit, name], index) => {
    table[index * ENTRY_SIZE] = type
    table[index * ENTRY_SIZE + 1] = bit
    table.set(encodeText(name), index * ENTRY_SIZE + 2)
  })
  return table
}

/** Every cluster of the new file is used once. */
function writeRefcounts(file: ImageFile, geometry: Geometry, layout: Layout, offset: number): void {
  const { clusterSize, refcountBlockEntries } = geometry
  const table = new Uint8Array(layout.refcountTable * clusterSize)
  const firstBlock = offset + table.length
  for (let index = 0; index < layout.refcountBlocks; index++) {
    setU64(viewOf(table), index * TABLE_ENTRY_SIZE, firstBlock + index * clusterSize)
  }
  file.write(table, offset)
  const codec = refcountCodec(geometry.refcountOrder)
  const block = new Uint8Array(clusterSize)
  const view = viewOf(block)
  const inLast = layout.total - (layout.refcountBlocks - 1) * refcountBlockEntries
  for (let index = 0; index < inLast; index++) codec.set(view, index, 1)
  file.write(block, firstBlock + (layout.refcountBlocks - 1) * clusterSize)
  for (let index = inLast; index < refcountBlockEntries; index++) codec.set(view, index, 1)
  for (let index = 0; index < layout.refcountBlocks - 1; index++) file.write(block, firstBlock + index * clusterSize)
}

interface NewMapping {
  readonly geometry: Geometry
  readonly layout: Layout
  /** Byte of the L1 table. */
  readonly offset: number
  /** The guest sees the whole content of a raw data file. */
  readonly showsAll: boolean
}

function writeMapping(file: ImageFile, { geometry, layout, offset, showsAll }: NewMapping): void {
  const { clusterSize, l2Entries, l2EntrySize, extendedL2 } = geometry
  const l1 = new Uint8Array(layout.l1Table * clusterSize)
  const firstTable = offset + l1.length + layout.encryption * clusterSize
  // Unwritten bytes do not decrypt to zeroes, so zero flags make the clusters read as zeroes.
  const flags = layout.encryption > 0 && !geometry.extendedL2 ? L2_ENTRY.ZERO_LO : 0
  for (let index = 0; index < layout.l2Tables; index++) putEntry(viewOf(l1), index * TABLE_ENTRY_SIZE, firstTable + index * clusterSize)
  if (l1.length > 0) file.write(l1, offset)
  const firstData = geometry.hasDataFile ? 0 : firstTable + layout.l2Tables * clusterSize
  const guestClusters = Math.ceil(geometry.size / clusterSize)
  const table = new Uint8Array(clusterSize)
  for (let index = 0; index < layout.l2Tables; index++) {
    const count = Math.min(l2Entries, guestClusters - index * l2Entries)
    table.fill(0, count * l2EntrySize)
    for (let entry = 0; entry < count; entry++) {
      putEntry(viewOf(table), entry * l2EntrySize, firstData + (index * l2Entries + entry) * clusterSize, flags)
      // Otherwise the subclusters stay unallocated, so that the backing file remains visible (QC-EL2-10).
      if (extendedL2 && showsAll) viewOf(table).setUint32(entry * l2EntrySize + EXTENDED_L2.ALLOCATED_BITS, ALL_SUBCLUSTERS)
    }
    file.write(table, firstTable + index * clusterSize)
  }
}

function putEntry(view: DataView, at: number, offset: number, flags = 0): void {
  const entry = encodeEntry({ offset, copied: true })
  view.setUint32(at, entry.hi)
  view.setUint32(at + 4, entry.lo + flags)
}
