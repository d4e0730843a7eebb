/** The qcow2 header as a value, and its bytes. [QCOW2] "Header" */
import { BackingError } from "../../backing.ts"
import { decodeText, getU64, roundUp, setU64, viewOf } from "../../bytes/fields.ts"
import { findExtension, type HeaderExtension, serialiseExtensions } from "./extensions.ts"
import { type Geometry, makeGeometry } from "./geometry.ts"
import { AUTOCLEAR_BIT, EXTENSION_TYPE, HEADER_FIELD, INCOMPATIBLE_BIT, QCOW2_MAGIC } from "./spec.ts"

/** The content of the header cluster. Offsets and sizes are bytes. */
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
  /** The bytes after the compression type, up to the header's end: padding and unknown fields, which are preserved (QC-HDR-06). */
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
  const has = (bit: number): boolean => hasFeature(header.incompatibleFeatures, bit)
  return makeGeometry({ ...header, extendedL2: has(INCOMPATIBLE_BIT.EXTENDED_L2), hasDataFile: has(INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE) })
}

/** Whether a file that starts with these bytes is a qcow2 image, of any version. */
export function isQcow2(start: Uint8Array): boolean {
  return start.length >= 4 && viewOf(start).getUint32(0) === QCOW2_MAGIC
}

/** The backing format that the image states, or undefined. */
export function backingFormat(header: Qcow2Header): string | undefined {
  const format = findExtension(header.extensions, EXTENSION_TYPE.BACKING_FORMAT)
  return format === undefined ? undefined : decodeText(format)
}

/** The name of the external data file that the image states, or undefined. */
export function dataFileName(header: Qcow2Header): string | undefined {
  const name = findExtension(header.extensions, EXTENSION_TYPE.EXTERNAL_DATA_FILE_NAME)
  return name === undefined || name.length === 0 ? undefined : decodeText(name)
}

/** Whether the external data file alone has to show the guest's data (QC-DF-07). */
export function isDataFileRaw(header: Qcow2Header): boolean {
  return hasFeature(header.autoclearFeatures, AUTOCLEAR_BIT.RAW_EXTERNAL_DATA)
}

/** Bytes of the file that hold the LUKS header and its key material, or undefined (QC-LUKS-01). */
export function encryptionArea(header: Qcow2Header): { readonly offset: number; readonly length: number } | undefined {
  const data = findExtension(header.extensions, EXTENSION_TYPE.FULL_DISK_ENCRYPTION)
  return data === undefined ? undefined : { offset: getU64(viewOf(data), 0), length: getU64(viewOf(data), 8) }
}

/**
 * The content of the first cluster: fields, trailing fields, extensions, backing file name. The rest of the cluster is zero.
 * @throws BackingError `no-space` if it does not fit into one cluster (QC-HDR-15)
 */
export function serialiseHeader(header: Qcow2Header, path: string): Uint8Array {
  const extensions = serialiseExtensions(header.extensions)
  const backingFileOffset = header.headerLength + extensions.length
  const end = backingFileOffset + (header.backingFile?.length ?? 0)
  const clusterSize = 2 ** header.clusterBits
  if (end > clusterSize) {
    const message = `the header with its extensions and the backing file name does not fit into one cluster of ${clusterSize} bytes`
    throw new BackingError("no-space", message, { path, offset: 0 })
  }
  const bytes = new Uint8Array(roundUp(end, 8))
  putFields(bytes, header, backingFileOffset)
  bytes.set(extensions, header.headerLength)
  if (header.backingFile !== undefined) bytes.set(header.backingFile, backingFileOffset)
  return bytes
}

function putFields(bytes: Uint8Array, header: Qcow2Header, backingFileOffset: number): void {
  const view = viewOf(bytes)
  view.setUint32(HEADER_FIELD.MAGIC, QCOW2_MAGIC)
  view.setUint32(HEADER_FIELD.VERSION, header.version)
  setU64(view, HEADER_FIELD.BACKING_FILE_OFFSET, header.backingFile === undefined ? 0 : backingFileOffset)
  view.setUint32(HEADER_FIELD.BACKING_FILE_SIZE, header.backingFile?.length ?? 0)
  view.setUint32(HEADER_FIELD.CLUSTER_BITS, header.clusterBits)
  setU64(view, HEADER_FIELD.SIZE, header.size)
  view.setUint32(HEADER_FIELD.CRYPT_METHOD, header.cryptMethod)
  view.setUint32(HEADER_FIELD.L1_SIZE, header.l1Size)
  setU64(view, HEADER_FIELD.L1_TABLE_OFFSET, header.l1TableOffset)
  setU64(view, HEADER_FIELD.REFCOUNT_TABLE_OFFSET, header.refcountTableOffset)
  view.setUint32(HEADER_FIELD.REFCOUNT_TABLE_CLUSTERS, header.refcountTableClusters)
  view.setUint32(HEADER_FIELD.NB_SNAPSHOTS, header.snapshotCount)
  setU64(view, HEADER_FIELD.SNAPSHOTS_OFFSET, header.snapshotsOffset)
  if (header.version === 2) return
  view.setBigUint64(HEADER_FIELD.INCOMPATIBLE_FEATURES, header.incompatibleFeatures)
  view.setBigUint64(HEADER_FIELD.COMPATIBLE_FEATURES, header.compatibleFeatures)
  view.setBigUint64(HEADER_FIELD.AUTOCLEAR_FEATURES, header.autoclearFeatures)
  view.setUint32(HEADER_FIELD.REFCOUNT_ORDER, header.refcountOrder)
  view.setUint32(HEADER_FIELD.HEADER_LENGTH, header.headerLength)
  if (header.headerLength <= HEADER_FIELD.COMPRESSION_TYPE) return
  const rest = HEADER_FIELD.COMPRESSION_TYPE + 1
  view.setUint8(HEADER_FIELD.COMPRESSION_TYPE, header.compressionType)
  bytes.set(header.trailing.subarray(0, header.headerLength - rest), rest)
}
