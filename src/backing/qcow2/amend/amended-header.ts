/** Computes the header for changed options of an image, and refuses impossible changes. */
import { BackingError } from "../../backing.ts"
import { decodeText, encodeText } from "../../bytes/fields.ts"
import { backingFormat, hasFeature, isDataFileRaw, type Qcow2Header } from "../format/header.ts"
import {
  AUTOCLEAR_BIT, COMPATIBLE_BIT, COMPRESSION_TYPE, EXTENSION_TYPE, HEADER_FIELD, HEADER_SIZE, INCOMPATIBLE_BIT, LIMIT,
} from "../format/spec.ts"
import type { Snapshot } from "../format/snapshot-table.ts"
import { headerWithBacking } from "../layers/change-backing.ts"

/** The options to change. Left out: no change. */
export interface Amendments {
  /** Version 2 of the format, "0.10", or version 3, "1.1". */
  readonly compat?: "0.10" | "1.1"
  /** The feature bit that lets other programs defer refcount updates. Needs "1.1". */
  readonly lazyRefcounts?: boolean
  /** Bits of a refcount: 1, 2, 4, 8, 16, 32 or 64. "0.10" has 16. */
  readonly refcountBits?: number
  /** Name of the backing file as the image stores it; "" for none. Copies no data, so the content of the image may change. */
  readonly backing?: string
  /** The format of the backing file. */
  readonly backingFormat?: "raw" | "qcow2" | "luks"
  /** Name of the external data file of an image that has one. The file itself does not change. */
  readonly dataFile?: string
  /** False: the data file no longer has to hold exactly what the guest sees. True is refused unless the image already has this. */
  readonly dataFileRaw?: boolean
}

const LAZY_REFCOUNTS = 1n << BigInt(COMPATIBLE_BIT.LAZY_REFCOUNTS)
const RAW_DATA = 1n << BigInt(AUTOCLEAR_BIT.RAW_EXTERNAL_DATA)
const DIRTY = 1n << BigInt(INCOMPATIBLE_BIT.DIRTY)

/**
 * Returns `header` with the options that only the header stores; it can raise the version, but not lower it. Refuses impossible options
 * before anything has changed.
 * @throws BackingError `invalid-argument`, `unsupported`
 */
export function amendedHeader(header: Qcow2Header, options: Amendments, path: string): Qcow2Header {
  const refuse = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
  const { compat, lazyRefcounts, refcountBits } = options
  const version = compat === undefined ? header.version : compat === "0.10" ? 2 : 3
  const order = refcountBits === undefined ? header.refcountOrder : Math.log2(refcountBits)
  if (!Number.isInteger(order) || order < 0 || order > LIMIT.REFCOUNT_ORDER_MAX) {
    throw refuse(`refcounts of ${refcountBits} bits: the width must be a power of two from 1 to 64`)
  }
  if (version === 2 && order !== 4) throw refuse(`refcounts of ${2 ** order} bits need compat "1.1"; "0.10" has 16`)
  if (version === 2 && lazyRefcounts === true) throw refuse('lazy refcounts need compat "1.1"')
  if (version === 2 && header.version === 3) refuseLosing(header, path)
  const renamed = withDataFile(withBackingFile(header, options, path), options, refuse)
  const upgraded = version > renamed.version ? asVersion3(renamed) : renamed
  if (lazyRefcounts === undefined || upgraded.version < 3) return upgraded
  const { compatibleFeatures } = upgraded
  return { ...upgraded, compatibleFeatures: lazyRefcounts ? compatibleFeatures | LAZY_REFCOUNTS : compatibleFeatures & ~LAZY_REFCOUNTS }
}

const NAMES: Readonly<Record<number, string>> = {
  [INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE]: "external data file",
  [INCOMPATIBLE_BIT.COMPRESSION_TYPE]: "compression but zlib",
  [INCOMPATIBLE_BIT.EXTENDED_L2]: "extended L2 entries",
}

/** Refuses features that version 2 lacks. */
function refuseLosing(header: Qcow2Header, path: string): void {
  const refuse = (what: string): BackingError =>
    new BackingError("unsupported", `compat "0.10" has no ${what}, so the image stays as it is`, { path })
  for (let bit = 0; bit < 64; bit++) {
    if (!hasFeature(header.incompatibleFeatures & ~DIRTY, bit)) continue
    throw refuse(NAMES[bit] ?? `incompatible feature bit ${bit}`)
  }
  if (hasFeature(header.autoclearFeatures, AUTOCLEAR_BIT.BITMAPS)) throw refuse("bitmaps; remove them first")
}

/**
 * Refuses snapshots that version 2 cannot store: it has one size for the disk and all its snapshots, and 32 bits for the size of a VM
 * state.
 * @param size the disk's new size in bytes
 * @throws BackingError `unsupported`
 */
export function refuseSnapshotsOfVersion3(snapshots: readonly Snapshot[], size: number, path: string): void {
  for (const { name, diskSize = size, vmStateSize } of snapshots) {
    const what = diskSize !== size ? `a disk of ${diskSize} bytes` : vmStateSize > 0xffff_ffff ? `a VM state of ${vmStateSize} bytes` : ""
    if (what === "") continue
    const message = `snapshot "${name}" has ${what}, which compat "0.10" has no room for, so the image stays as it is; delete it first`
    throw new BackingError("unsupported", message, { path })
  }
}

function withBackingFile(header: Qcow2Header, { backing, backingFormat: given }: Amendments, path: string): Qcow2Header {
  if (backing === undefined && given === undefined) return header
  const name = backing ?? (header.backingFile === undefined ? "" : decodeText(header.backingFile))
  const format = given ?? backingFormat(header)
  const refuse = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
  if (name !== "" && format === undefined) throw refuse(`the format of the backing file "${name}" must be given`)
  if (name === "" && backing === undefined) throw refuse("a backing format was given, but the image has no backing file")
  return headerWithBacking(header, name === "" || format === undefined ? undefined : { name, format }, path)
}

function withDataFile(header: Qcow2Header, options: Amendments, refuse: (message: string) => BackingError): Qcow2Header {
  const { dataFile, dataFileRaw } = options
  const has = hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE)
  if (dataFileRaw === true && !isDataFileRaw(header)) throw refuse("an existing data file cannot become a raw one")
  if (dataFile !== undefined && !has) throw refuse("the image has no external data file, and cannot get one later")
  const raw = dataFileRaw === false ? { autoclearFeatures: header.autoclearFeatures & ~RAW_DATA } : {}
  if (dataFile === undefined) return { ...header, ...raw }
  const others = header.extensions.filter(({ type }) => type !== EXTENSION_TYPE.EXTERNAL_DATA_FILE_NAME)
  const extensions = dataFile === "" ? others : [...others, { type: EXTENSION_TYPE.EXTERNAL_DATA_FILE_NAME, data: encodeText(dataFile) }]
  return { ...header, ...raw, extensions }
}

/** Converts a header of version 2 to version 3, without a change of meaning. */
function asVersion3(header: Qcow2Header): Qcow2Header {
  const trailing = new Uint8Array(HEADER_SIZE.V3_WRITTEN - HEADER_FIELD.COMPRESSION_TYPE - 1)
  return { ...header, version: 3, headerLength: HEADER_SIZE.V3_WRITTEN, compressionType: COMPRESSION_TYPE.ZLIB, trailing }
}

/** Converts a header to version 2. The image no longer has features that version 2 lacks. */
export function asVersion2(header: Qcow2Header): Qcow2Header {
  const extensions = header.extensions.filter(({ type }) => type !== EXTENSION_TYPE.FEATURE_NAME_TABLE && type !== EXTENSION_TYPE.BITMAPS)
  return {
    ...header, version: 2, headerLength: HEADER_SIZE.V2, incompatibleFeatures: 0n, compatibleFeatures: 0n, autoclearFeatures: 0n,
    trailing: new Uint8Array(0), extensions,
  }
}
