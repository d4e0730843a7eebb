/** The qcow2 header: from bytes to a checked value and back. [QCOW2] "Header" */
import { BackingError, type BackingErrorCode } from "../../backing.ts"
import { decodeText, getU64, roundUp, setU64, viewOf } from "./bytes.ts"
import { findExtension, type HeaderExtension, parseExtensions, serialiseExtensions } from "./extensions.ts"
import { type Geometry, makeGeometry } from "./geometry.ts"
import {
  AUTOCLEAR_BIT,
  COMPRESSION_TYPE,
  CRYPT_METHOD,
  EXTENSION_TYPE,
  HEADER_FIELD,
  HEADER_SIZE,
  INCOMPATIBLE_BIT,
  LIMIT,
  QCOW2_MAGIC,
  TABLE_ENTRY_SIZE,
} from "./spec.ts"

/** All that the header cluster says. Offsets and sizes are bytes. Nothing of it is changed by opening an image. */
export interface Qcow2Header {
  readonly version: 2 | 3
  readonly clusterBits: number
  /** Guest-visible size. */
  readonly size: number
  readonly cryptMethod: number
  /** Entries in the active L1 table. */
  readonly l1Size: number
  readonly l1TableOffset: number
  readonly refcountTableOffset: number
  readonly refcountTableClusters: number
  readonly snapshotCount: number
  readonly snapshotsOffset: number
  readonly incompatibleFeatures: bigint
  readonly compatibleFeatures: bigint
  readonly autoclearFeatures: bigint
  readonly refcountOrder: number
  readonly headerLength: number
  readonly compressionType: number
  /** What follows the compression type up to the header's end: padding and fields of later versions, kept as they are (QC-HDR-06). */
  readonly trailing: Uint8Array
  readonly extensions: readonly HeaderExtension[]
  /** Name of the backing file as stored, or undefined. */
  readonly backingFile: Uint8Array | undefined
}

/** Whether bit number `bit` of a feature word is set. */
export function hasFeature(word: bigint, bit: number): boolean {
  return ((word >> BigInt(bit)) & 1n) === 1n
}

/** The sizes that follow from a header. */
export function headerGeometry(header: Qcow2Header): Geometry {
  return makeGeometry(header)
}

/** Whether the bytes at the start of a file name it a qcow2 image, of whatever version. */
export function isQcow2(start: Uint8Array): boolean {
  return start.length >= 4 && viewOf(start).getUint32(0) === QCOW2_MAGIC
}

/** The backing format that the image states, or undefined. */
export function backingFormat(header: Qcow2Header): string | undefined {
  const format = findExtension(header.extensions, EXTENSION_TYPE.BACKING_FORMAT)
  return format === undefined ? undefined : decodeText(format)
}

/** Fixed positions: what of the header must be there before its cluster size is known. */
const FIXED_SIZE = HEADER_SIZE.V2

/** Cluster size that the first bytes of a file announce, so that the whole first cluster can be read. Throws as `parseHeader` does. */
export function announcedClusterSize(start: Uint8Array, path: string): number {
  const fail = failure(path)
  if (!isQcow2(start)) throw fail('it is not a qcow2 image: its first four bytes are not "QFI" 0xfb', HEADER_FIELD.MAGIC)
  if (start.length < FIXED_SIZE) throw fail(`the file ends inside the qcow2 header, after ${start.length} bytes`, start.length)
  const view = viewOf(start)
  const version = view.getUint32(HEADER_FIELD.VERSION)
  if (version !== 2 && version !== 3) throw fail(`qcow2 version ${version} at byte ${HEADER_FIELD.VERSION} is not 2 or 3`, HEADER_FIELD.VERSION, "unsupported")
  const clusterBits = view.getUint32(HEADER_FIELD.CLUSTER_BITS)
  if (clusterBits < LIMIT.CLUSTER_BITS_MIN || clusterBits > LIMIT.CLUSTER_BITS_MAX) {
    throw fail(
      `cluster_bits ${clusterBits} at byte ${HEADER_FIELD.CLUSTER_BITS} is not ${LIMIT.CLUSTER_BITS_MIN} to ${LIMIT.CLUSTER_BITS_MAX}`,
      HEADER_FIELD.CLUSTER_BITS,
    )
  }
  return 2 ** clusterBits
}

/**
 * Parses the header from `cluster`: the first cluster of the file, or all of a shorter file. Throws a `BackingError` that names the field and its
 * byte when the header contradicts itself or exceeds a limit. Valid features that this program lacks are not refused here, so that
 * they can be shown: see `refuseUnsupported`.
 */
export function parseHeader(cluster: Uint8Array, path: string): Qcow2Header {
  const clusterSize = announcedClusterSize(cluster, path)
  const fail = failure(path)
  const view = viewOf(cluster)
  const version = view.getUint32(HEADER_FIELD.VERSION) === 2 ? 2 : 3
  if (version === 3 && cluster.length < HEADER_SIZE.V3_MINIMUM)
    throw fail(`the file ends inside the qcow2 header, after ${cluster.length} bytes`, cluster.length)
  // Version 2 knows no field beyond byte 72: there the extensions start (QC-HDR-04).
  const headerLength = version === 2 ? HEADER_SIZE.V2 : view.getUint32(HEADER_FIELD.HEADER_LENGTH)
  if (version === 3 && (headerLength < HEADER_SIZE.V3_MINIMUM || headerLength > clusterSize || headerLength % 8 !== 0)) {
    throw fail(
      `header_length ${headerLength} at byte ${HEADER_FIELD.HEADER_LENGTH} is not a multiple of 8 from ${HEADER_SIZE.V3_MINIMUM} to the cluster size`,
      HEADER_FIELD.HEADER_LENGTH,
    )
  }
  if (headerLength > cluster.length) throw fail(`the file ends inside the qcow2 header, after ${cluster.length} bytes`, cluster.length)
  const hasCompressionType = headerLength > HEADER_FIELD.COMPRESSION_TYPE
  const backingFileOffset = getU64(view, HEADER_FIELD.BACKING_FILE_OFFSET)
  const backingFile = parseBackingFile(cluster, backingFileOffset, clusterSize, path)
  const extensionsEnd = Math.min(backingFileOffset === 0 ? clusterSize : backingFileOffset, cluster.length)
  const header: Qcow2Header = {
    version,
    clusterBits: view.getUint32(HEADER_FIELD.CLUSTER_BITS),
    size: getU64(view, HEADER_FIELD.SIZE),
    cryptMethod: view.getUint32(HEADER_FIELD.CRYPT_METHOD),
    l1Size: view.getUint32(HEADER_FIELD.L1_SIZE),
    l1TableOffset: getU64(view, HEADER_FIELD.L1_TABLE_OFFSET),
    refcountTableOffset: getU64(view, HEADER_FIELD.REFCOUNT_TABLE_OFFSET),
    refcountTableClusters: view.getUint32(HEADER_FIELD.REFCOUNT_TABLE_CLUSTERS),
    snapshotCount: view.getUint32(HEADER_FIELD.NB_SNAPSHOTS),
    snapshotsOffset: getU64(view, HEADER_FIELD.SNAPSHOTS_OFFSET),
    incompatibleFeatures: version === 2 ? 0n : view.getBigUint64(HEADER_FIELD.INCOMPATIBLE_FEATURES),
    compatibleFeatures: version === 2 ? 0n : view.getBigUint64(HEADER_FIELD.COMPATIBLE_FEATURES),
    autoclearFeatures: version === 2 ? 0n : view.getBigUint64(HEADER_FIELD.AUTOCLEAR_FEATURES),
    refcountOrder: version === 2 ? 4 : view.getUint32(HEADER_FIELD.REFCOUNT_ORDER),
    headerLength,
    compressionType: hasCompressionType ? view.getUint8(HEADER_FIELD.COMPRESSION_TYPE) : COMPRESSION_TYPE.ZLIB,
    trailing: hasCompressionType ? cluster.slice(HEADER_FIELD.COMPRESSION_TYPE + 1, headerLength) : new Uint8Array(0),
    extensions: parseExtensions(cluster, { start: headerLength, end: extensionsEnd, path }),
    backingFile,
  }
  checkTables(header, path)
  checkFeatures(header, path)
  checkExtensions(header, path)
  return header
}

function parseBackingFile(cluster: Uint8Array, offset: number, clusterSize: number, path: string): Uint8Array | undefined {
  // The length means nothing without an offset (QC-HDR-12).
  if (offset === 0) return undefined
  const fail = failure(path)
  const length = viewOf(cluster).getUint32(HEADER_FIELD.BACKING_FILE_SIZE)
  if (offset > clusterSize)
    throw fail(`backing_file_offset ${offset} at byte ${HEADER_FIELD.BACKING_FILE_OFFSET} is beyond the first cluster`, HEADER_FIELD.BACKING_FILE_OFFSET)
  if (length > Math.min(LIMIT.BACKING_FILE_NAME_BYTES, clusterSize - offset)) {
    throw fail(
      `the backing file name of ${length} bytes at byte ${offset} is longer than ${LIMIT.BACKING_FILE_NAME_BYTES} bytes or leaves the first cluster`,
      HEADER_FIELD.BACKING_FILE_SIZE,
    )
  }
  if (offset + length > cluster.length) throw fail(`the file ends inside the backing file name at byte ${offset}`, offset)
  return length === 0 ? undefined : cluster.slice(offset, offset + length)
}

/** Alignment, order and limits of the tables, and that their ends can be addressed (QC-HDR-09, QC-HDR-10, QC-HDR-14, QC-LIM-01). */
function checkTables(header: Qcow2Header, path: string): void {
  const fail = failure(path)
  if (header.refcountOrder > LIMIT.REFCOUNT_ORDER_MAX)
    throw fail(
      `refcount_order ${header.refcountOrder} at byte ${HEADER_FIELD.REFCOUNT_ORDER} is above ${LIMIT.REFCOUNT_ORDER_MAX}`,
      HEADER_FIELD.REFCOUNT_ORDER,
    )
  if (!Number.isSafeInteger(header.size))
    throw fail(`the disk size at byte ${HEADER_FIELD.SIZE} is 2^53 bytes or more, which this program cannot address`, HEADER_FIELD.SIZE, "unsupported")
  const geometry = headerGeometry(header)
  const { clusterSize } = geometry
  const table = (name: string, field: number, offset: number, length: number): void => {
    if (offset % clusterSize !== 0) throw fail(`${name} ${offset} at byte ${field} is not a multiple of the cluster size ${clusterSize}`, field)
    if (!Number.isSafeInteger(offset + length)) throw fail(`${name} at byte ${field} points beyond the largest file offset`, field)
  }
  if (header.l1Size * TABLE_ENTRY_SIZE > LIMIT.L1_TABLE_BYTES)
    throw fail(
      `l1_size ${header.l1Size} at byte ${HEADER_FIELD.L1_SIZE} is above the limit of ${LIMIT.L1_TABLE_BYTES / TABLE_ENTRY_SIZE} entries`,
      HEADER_FIELD.L1_SIZE,
    )
  if (header.l1Size < geometry.l1EntriesNeeded)
    throw fail(
      `l1_size ${header.l1Size} at byte ${HEADER_FIELD.L1_SIZE} is too small for a disk of ${header.size} bytes, which needs ${geometry.l1EntriesNeeded}`,
      HEADER_FIELD.L1_SIZE,
    )
  if (header.refcountTableClusters * clusterSize > LIMIT.REFCOUNT_TABLE_BYTES) {
    throw fail(
      `refcount_table_clusters ${header.refcountTableClusters} at byte ${HEADER_FIELD.REFCOUNT_TABLE_CLUSTERS} is above the limit of ${LIMIT.REFCOUNT_TABLE_BYTES} bytes`,
      HEADER_FIELD.REFCOUNT_TABLE_CLUSTERS,
    )
  }
  if (header.snapshotCount > LIMIT.SNAPSHOTS)
    throw fail(`nb_snapshots ${header.snapshotCount} at byte ${HEADER_FIELD.NB_SNAPSHOTS} is above the limit of ${LIMIT.SNAPSHOTS}`, HEADER_FIELD.NB_SNAPSHOTS)
  table("l1_table_offset", HEADER_FIELD.L1_TABLE_OFFSET, header.l1TableOffset, header.l1Size * TABLE_ENTRY_SIZE)
  table("refcount_table_offset", HEADER_FIELD.REFCOUNT_TABLE_OFFSET, header.refcountTableOffset, header.refcountTableClusters * clusterSize)
  table("snapshots_offset", HEADER_FIELD.SNAPSHOTS_OFFSET, header.snapshotsOffset, LIMIT.SNAPSHOT_TABLE_BYTES)
}

function checkFeatures(header: Qcow2Header, path: string): void {
  const fail = failure(path)
  if (header.cryptMethod > CRYPT_METHOD.LUKS)
    throw fail(`crypt_method ${header.cryptMethod} at byte ${HEADER_FIELD.CRYPT_METHOD} is unknown`, HEADER_FIELD.CRYPT_METHOD, "unsupported")
  if (header.compressionType > COMPRESSION_TYPE.ZSTD) {
    throw fail(`compression_type ${header.compressionType} at byte ${HEADER_FIELD.COMPRESSION_TYPE} is unknown`, HEADER_FIELD.COMPRESSION_TYPE, "unsupported")
  }
  if (hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.COMPRESSION_TYPE) !== (header.compressionType !== COMPRESSION_TYPE.ZLIB)) {
    throw fail(
      `compression_type ${header.compressionType} at byte ${HEADER_FIELD.COMPRESSION_TYPE} contradicts incompatible feature bit ${INCOMPATIBLE_BIT.COMPRESSION_TYPE}`,
      HEADER_FIELD.COMPRESSION_TYPE,
    )
  }
  if (hasFeature(header.autoclearFeatures, AUTOCLEAR_BIT.RAW_EXTERNAL_DATA) && !hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE)) {
    throw fail(
      `autoclear feature bit ${AUTOCLEAR_BIT.RAW_EXTERNAL_DATA} (raw external data) at byte ${HEADER_FIELD.AUTOCLEAR_FEATURES} is set without an external data file`,
      HEADER_FIELD.AUTOCLEAR_FEATURES,
    )
  }
  if (hasFeature(header.autoclearFeatures, AUTOCLEAR_BIT.RAW_EXTERNAL_DATA) && header.backingFile !== undefined) {
    throw fail(`raw external data at byte ${HEADER_FIELD.AUTOCLEAR_FEATURES} does not go with a backing file`, HEADER_FIELD.AUTOCLEAR_FEATURES)
  }
}

function checkExtensions(header: Qcow2Header, path: string): void {
  const fail = failure(path)
  const format = findExtension(header.extensions, EXTENSION_TYPE.BACKING_FORMAT)
  if (format !== undefined && format.length > LIMIT.BACKING_FORMAT_BYTES)
    throw fail(`the backing format of ${format.length} bytes is longer than ${LIMIT.BACKING_FORMAT_BYTES}`)
  const encryption = findExtension(header.extensions, EXTENSION_TYPE.FULL_DISK_ENCRYPTION)
  if ((encryption !== undefined) !== (header.cryptMethod === CRYPT_METHOD.LUKS)) {
    throw fail(
      `crypt_method ${header.cryptMethod} at byte ${HEADER_FIELD.CRYPT_METHOD} contradicts the ${encryption === undefined ? "missing" : "present"} encryption header extension`,
      HEADER_FIELD.CRYPT_METHOD,
    )
  }
  if (encryption !== undefined && (encryption.length !== 16 || getU64(viewOf(encryption), 0) % 2 ** header.clusterBits !== 0))
    throw fail("the encryption header extension is not 16 bytes with an aligned offset")
}

/**
 * The first cluster's content for `header`: fields, trailing fields, extensions, backing file name. Its length is that of the content, which is
 * to be followed by zeroes. Throws `no-space` when it does not fit into one cluster (QC-HDR-15).
 */
export function serialiseHeader(header: Qcow2Header, path: string): Uint8Array {
  const extensions = serialiseExtensions(header.extensions)
  const backingFileOffset = header.headerLength + extensions.length
  const backingFileSize = header.backingFile?.length ?? 0
  const bytes = new Uint8Array(roundUp(backingFileOffset + backingFileSize, 8))
  if (backingFileOffset + backingFileSize > 2 ** header.clusterBits) {
    throw new BackingError(
      "no-space",
      `the header with its extensions and the backing file name does not fit into one cluster of ${2 ** header.clusterBits} bytes`,
      { path, offset: 0 },
    )
  }
  const view = viewOf(bytes)
  view.setUint32(HEADER_FIELD.MAGIC, QCOW2_MAGIC)
  view.setUint32(HEADER_FIELD.VERSION, header.version)
  setU64(view, HEADER_FIELD.BACKING_FILE_OFFSET, header.backingFile === undefined ? 0 : backingFileOffset)
  view.setUint32(HEADER_FIELD.BACKING_FILE_SIZE, backingFileSize)
  view.setUint32(HEADER_FIELD.CLUSTER_BITS, header.clusterBits)
  setU64(view, HEADER_FIELD.SIZE, header.size)
  view.setUint32(HEADER_FIELD.CRYPT_METHOD, header.cryptMethod)
  view.setUint32(HEADER_FIELD.L1_SIZE, header.l1Size)
  setU64(view, HEADER_FIELD.L1_TABLE_OFFSET, header.l1TableOffset)
  setU64(view, HEADER_FIELD.REFCOUNT_TABLE_OFFSET, header.refcountTableOffset)
  view.setUint32(HEADER_FIELD.REFCOUNT_TABLE_CLUSTERS, header.refcountTableClusters)
  view.setUint32(HEADER_FIELD.NB_SNAPSHOTS, header.snapshotCount)
  setU64(view, HEADER_FIELD.SNAPSHOTS_OFFSET, header.snapshotsOffset)
  if (header.version === 3) {
    view.setBigUint64(HEADER_FIELD.INCOMPATIBLE_FEATURES, header.incompatibleFeatures)
    view.setBigUint64(HEADER_FIELD.COMPATIBLE_FEATURES, header.compatibleFeatures)
    view.setBigUint64(HEADER_FIELD.AUTOCLEAR_FEATURES, header.autoclearFeatures)
    view.setUint32(HEADER_FIELD.REFCOUNT_ORDER, header.refcountOrder)
    view.setUint32(HEADER_FIELD.HEADER_LENGTH, header.headerLength)
    if (header.headerLength > HEADER_FIELD.COMPRESSION_TYPE) {
      view.setUint8(HEADER_FIELD.COMPRESSION_TYPE, header.compressionType)
      bytes.set(header.trailing.subarray(0, header.headerLength - HEADER_FIELD.COMPRESSION_TYPE - 1), HEADER_FIELD.COMPRESSION_TYPE + 1)
    }
  }
  bytes.set(extensions, header.headerLength)
  if (header.backingFile !== undefined) bytes.set(header.backingFile, backingFileOffset)
  return bytes
}

/** Makes the errors of this file: they all name the path, and the byte where there is one. */
function failure(path: string): (message: string, offset?: number, code?: BackingErrorCode) => BackingError {
  return (message, offset, code = "invalid-format") => new BackingError(code, message, { path, offset })
}
