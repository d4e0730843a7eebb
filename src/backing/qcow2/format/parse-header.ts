/** Parses and checks the qcow2 header cluster. Every error names the field and its byte. [QCOW2] "Header" */
import { BackingError, type BackingErrorCode } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import { getU64, viewOf } from "../../bytes/fields.ts"
import { findExtension, parseExtensions } from "./extensions.ts"
import { hasFeature, headerGeometry, isQcow2, type Qcow2Header } from "./header.ts"
import {
  AUTOCLEAR_BIT, COMPRESSION_TYPE, CRYPT_METHOD, EXTENSION_TYPE, HEADER_FIELD, HEADER_SIZE, INCOMPATIBLE_BIT, LIMIT, TABLE_ENTRY_SIZE,
} from "./spec.ts"

/** Makes the errors for one file. */
class Failure {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  /** `offset`: the wrong byte. */
  at(offset: number | undefined, message: string, code: BackingErrorCode = "invalid-format"): BackingError {
    return new BackingError(code, message, { path: this.#path, offset })
  }

  /** The error for the field at byte `field`, which the specification calls `named`. */
  field(field: number, named: string, problem: string, code?: BackingErrorCode): BackingError {
    return this.at(field, `${named} at byte ${field} ${problem}`, code)
  }
}

/** Problems that a check accepts, so that a repair can remove them. */
export interface HeaderOptions {
  readonly anySnapshotCount?: boolean
}

/** Reads and checks the header of a qcow2 file. Reads at most one cluster. @throws as `parseHeader` */
export function readHeader(file: Pick<ImageFile, "path" | "read">, options: HeaderOptions = {}): Qcow2Header {
  const start = new Uint8Array(HEADER_SIZE.V3_MINIMUM)
  const clusterSize = announcedClusterSize(start.subarray(0, file.read(start, 0)), new Failure(file.path))
  const cluster = new Uint8Array(clusterSize)
  return parseHeader(cluster.subarray(0, file.read(cluster, 0)), file.path, options)
}

/** The cluster size that the first bytes of a file announce, so that the whole first cluster can be read. */
function announcedClusterSize(start: Uint8Array, fail: Failure): number {
  if (!isQcow2(start)) throw fail.at(HEADER_FIELD.MAGIC, 'it is not a qcow2 image: its first four bytes are not "QFI" 0xfb')
  const view = viewOf(start)
  if (start.length < HEADER_SIZE.V2) {
    const isV3 = start.length >= HEADER_FIELD.VERSION + 4 && view.getUint32(HEADER_FIELD.VERSION) === 3
    throw cutShort(start, isV3 ? HEADER_SIZE.V3_MINIMUM : HEADER_SIZE.V2, fail)
  }
  const version = view.getUint32(HEADER_FIELD.VERSION)
  if (version !== 2 && version !== 3) throw fail.field(HEADER_FIELD.VERSION, `qcow2 version ${version}`, "is not 2 or 3", "unsupported")
  const clusterBits = view.getUint32(HEADER_FIELD.CLUSTER_BITS)
  if (clusterBits < LIMIT.CLUSTER_BITS_MIN || clusterBits > LIMIT.CLUSTER_BITS_MAX) {
    throw fail.field(
      HEADER_FIELD.CLUSTER_BITS,
      `cluster_bits ${clusterBits}`,
      `is not ${LIMIT.CLUSTER_BITS_MIN} to ${LIMIT.CLUSTER_BITS_MAX}`,
    )
  }
  return 2 ** clusterBits
}

function cutShort(start: Uint8Array, headerLength: number, fail: Failure): BackingError {
  const message = `qcow2 header cut short: ${start.length} of ${headerLength} bytes; the file is truncated, so copy it again`
  return fail.at(start.length, message)
}

/**
 * Parses the header in `cluster`: the first cluster of the file, or all of a shorter file. Accepts valid features that we do not support,
 * so that tools can show them: see `refuseUnsupported`.
 * @throws BackingError `invalid-format` or `unsupported` if the header contradicts itself or exceeds a limit
 */
export function parseHeader(cluster: Uint8Array, path: string, options: HeaderOptions = {}): Qcow2Header {
  const fail = new Failure(path)
  const clusterSize = announcedClusterSize(cluster, fail)
  const header = parseFields(cluster, clusterSize, path)
  checkTables(header, fail, options)
  checkFeatures(header, fail)
  checkExtensions(header, fail)
  return header
}

function parseFields(cluster: Uint8Array, clusterSize: number, path: string): Qcow2Header {
  const view = viewOf(cluster)
  const version = view.getUint32(HEADER_FIELD.VERSION) === 2 ? 2 : 3
  const headerLength = parseHeaderLength(cluster, version, clusterSize, new Failure(path))
  const hasCompressionType = headerLength > HEADER_FIELD.COMPRESSION_TYPE
  const backingFileOffset = getU64(view, HEADER_FIELD.BACKING_FILE_OFFSET)
  const backingFile = parseBackingFile(cluster, backingFileOffset, clusterSize, new Failure(path))
  const extensionsEnd = Math.min(backingFileOffset === 0 ? clusterSize : backingFileOffset, cluster.length)
  return {
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
}

function parseHeaderLength(cluster: Uint8Array, version: 2 | 3, clusterSize: number, fail: Failure): number {
  // Version 2 has no field beyond byte 72: its extensions start there (QC-HDR-04).
  if (version === 2) return HEADER_SIZE.V2
  if (cluster.length < HEADER_SIZE.V3_MINIMUM) throw cutShort(cluster, HEADER_SIZE.V3_MINIMUM, fail)
  const length = viewOf(cluster).getUint32(HEADER_FIELD.HEADER_LENGTH)
  if (length < HEADER_SIZE.V3_MINIMUM || length > clusterSize || length % 8 !== 0) {
    const allowed = `a multiple of 8 from ${HEADER_SIZE.V3_MINIMUM} to the cluster size`
    throw fail.field(HEADER_FIELD.HEADER_LENGTH, `header_length ${length}`, `is not ${allowed}`)
  }
  if (length > cluster.length) throw cutShort(cluster, length, fail)
  return length
}

function parseBackingFile(cluster: Uint8Array, offset: number, clusterSize: number, fail: Failure): Uint8Array | undefined {
  // The length has no meaning without an offset (QC-HDR-12).
  if (offset === 0) return undefined
  const length = viewOf(cluster).getUint32(HEADER_FIELD.BACKING_FILE_SIZE)
  if (offset > clusterSize) {
    throw fail.field(HEADER_FIELD.BACKING_FILE_OFFSET, `backing_file_offset ${offset}`, "is beyond the first cluster")
  }
  if (length > Math.min(LIMIT.BACKING_FILE_NAME_BYTES, clusterSize - offset)) {
    const problem = `is longer than ${LIMIT.BACKING_FILE_NAME_BYTES} bytes or does not end in the first cluster`
    throw fail.at(HEADER_FIELD.BACKING_FILE_SIZE, `the backing file name of ${length} bytes at byte ${offset} ${problem}`)
  }
  if (offset + length > cluster.length) throw fail.at(offset, `the file ends inside the backing file name at byte ${offset}`)
  return length === 0 ? undefined : cluster.slice(offset, offset + length)
}

/** Checks the sizes of the tables (QC-HDR-09, QC-HDR-14, QC-LIM-01). */
function checkTables(header: Qcow2Header, fail: Failure, { anySnapshotCount = false }: HeaderOptions): void {
  const { refcountOrder, size, l1Size, refcountTableClusters, snapshotCount } = header
  if (refcountOrder > LIMIT.REFCOUNT_ORDER_MAX) {
    throw fail.field(HEADER_FIELD.REFCOUNT_ORDER, `refcount_order ${refcountOrder}`, `is above ${LIMIT.REFCOUNT_ORDER_MAX}`)
  }
  if (!Number.isSafeInteger(size)) {
    throw fail.field(HEADER_FIELD.SIZE, "the disk size", "is 2^53 bytes or more, which this program cannot address", "unsupported")
  }
  const { l1EntriesNeeded } = headerGeometry(header)
  const mostL1Entries = LIMIT.L1_TABLE_BYTES / TABLE_ENTRY_SIZE
  if (l1Size > mostL1Entries) throw fail.field(HEADER_FIELD.L1_SIZE, `l1_size ${l1Size}`, `is above the limit of ${mostL1Entries} entries`)
  if (l1Size < l1EntriesNeeded) {
    throw fail.field(HEADER_FIELD.L1_SIZE, `l1_size ${l1Size}`, `is too small for a disk of ${size} bytes, which needs ${l1EntriesNeeded}`)
  }
  if (refcountTableClusters * 2 ** header.clusterBits > LIMIT.REFCOUNT_TABLE_BYTES) {
    const named = `refcount_table_clusters ${refcountTableClusters}`
    throw fail.field(HEADER_FIELD.REFCOUNT_TABLE_CLUSTERS, named, `is above the limit of ${LIMIT.REFCOUNT_TABLE_BYTES} bytes`)
  }
  if (snapshotCount > LIMIT.SNAPSHOTS && !anySnapshotCount) {
    throw fail.field(HEADER_FIELD.NB_SNAPSHOTS, `nb_snapshots ${snapshotCount}`, `is above the limit of ${LIMIT.SNAPSHOTS}`)
  }
  checkPlaces(header, fail)
}

/** Checks that tables start at a cluster boundary and end at a valid file offset (QC-HDR-10). */
function checkPlaces(header: Qcow2Header, fail: Failure): void {
  const clusterSize = 2 ** header.clusterBits
  const check = (name: string, field: number, offset: number, length: number): void => {
    if (offset % clusterSize !== 0) throw fail.field(field, `${name} ${offset}`, `is not a multiple of the cluster size ${clusterSize}`)
    if (!Number.isSafeInteger(offset + length)) throw fail.field(field, name, "points beyond the largest file offset")
  }
  check("l1_table_offset", HEADER_FIELD.L1_TABLE_OFFSET, header.l1TableOffset, header.l1Size * TABLE_ENTRY_SIZE)
  check("refcount_table_offset", HEADER_FIELD.REFCOUNT_TABLE_OFFSET, header.refcountTableOffset, header.refcountTableClusters * clusterSize)
  check("snapshots_offset", HEADER_FIELD.SNAPSHOTS_OFFSET, header.snapshotsOffset, LIMIT.SNAPSHOT_TABLE_BYTES)
}

function checkFeatures(header: Qcow2Header, fail: Failure): void {
  const { cryptMethod, compressionType, incompatibleFeatures, autoclearFeatures } = header
  if (cryptMethod > CRYPT_METHOD.LUKS) {
    throw fail.field(HEADER_FIELD.CRYPT_METHOD, `crypt_method ${cryptMethod}`, "is unknown", "unsupported")
  }
  const compression = `compression_type ${compressionType}`
  if (compressionType > COMPRESSION_TYPE.ZSTD) throw fail.field(HEADER_FIELD.COMPRESSION_TYPE, compression, "is unknown", "unsupported")
  if (hasFeature(incompatibleFeatures, INCOMPATIBLE_BIT.COMPRESSION_TYPE) !== (compressionType !== COMPRESSION_TYPE.ZLIB)) {
    throw fail.field(
      HEADER_FIELD.COMPRESSION_TYPE,
      compression,
      `contradicts incompatible feature bit ${INCOMPATIBLE_BIT.COMPRESSION_TYPE}`,
    )
  }
  if (hasFeature(incompatibleFeatures, INCOMPATIBLE_BIT.EXTENDED_L2) && header.clusterBits < LIMIT.EXTENDED_L2_CLUSTER_BITS_MIN) {
    const problem = `is below ${LIMIT.EXTENDED_L2_CLUSTER_BITS_MIN}, the least for extended L2 entries`
    throw fail.field(HEADER_FIELD.CLUSTER_BITS, `cluster_bits ${header.clusterBits}`, problem)
  }
  if (!hasFeature(autoclearFeatures, AUTOCLEAR_BIT.RAW_EXTERNAL_DATA)) return
  const rawData = `autoclear feature bit ${AUTOCLEAR_BIT.RAW_EXTERNAL_DATA} (raw external data)`
  if (!hasFeature(incompatibleFeatures, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE)) {
    throw fail.field(HEADER_FIELD.AUTOCLEAR_FEATURES, rawData, "is set without an external data file")
  }
  if (header.backingFile !== undefined) throw fail.field(HEADER_FIELD.AUTOCLEAR_FEATURES, rawData, "excludes a backing file")
}

function checkExtensions(header: Qcow2Header, fail: Failure): void {
  const format = findExtension(header.extensions, EXTENSION_TYPE.BACKING_FORMAT)
  if (format !== undefined && format.length > LIMIT.BACKING_FORMAT_BYTES) {
    throw fail.at(undefined, `the backing format of ${format.length} bytes is longer than ${LIMIT.BACKING_FORMAT_BYTES}`)
  }
  const encryption = findExtension(header.extensions, EXTENSION_TYPE.FULL_DISK_ENCRYPTION)
  if ((encryption !== undefined) !== (header.cryptMethod === CRYPT_METHOD.LUKS)) {
    const problem = `contradicts the ${encryption === undefined ? "missing" : "present"} encryption header extension`
    throw fail.field(HEADER_FIELD.CRYPT_METHOD, `crypt_method ${header.cryptMethod}`, problem)
  }
  if (encryption === undefined) return
  if (encryption.length !== 16 || getU64(viewOf(encryption), 0) % 2 ** header.clusterBits !== 0) {
    throw fail.at(undefined, "the encryption header extension is not 16 bytes with an aligned offset")
  }
  if (!Number.isSafeInteger(getU64(viewOf(encryption), 0) + getU64(viewOf(encryption), 8))) {
    throw fail.at(undefined, "the encryption header extension points beyond the largest file offset")
  }
}
