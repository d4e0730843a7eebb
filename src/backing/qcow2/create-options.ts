/** The options of a new qcow2 image, and their limits. */
import type { Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import type { LuksOptions } from "../luks/new-volume.ts"
import { encodeText, roundUp } from "../bytes/fields.ts"
import { type Geometry, makeGeometry } from "./format/geometry.ts"
import { LIMIT, SECTOR_SIZE, TABLE_ENTRY_SIZE } from "./format/spec.ts"

/** Options of `createQcow2`. */
export interface CreateQcow2Options {
  /** Guest-visible bytes; rounded up to a multiple of 512. */
  readonly size: number
  /** Bytes: a power of two from 512 to 2 MiB. Default 65536. */
  readonly clusterSize?: number
  /** Name of the backing file as the image stores it: relative to the image's directory, or absolute. */
  readonly backing?: string
  /** Format of the backing file; required with one. */
  readonly backingFormat?: "raw" | "qcow2" | "luks"
  /** Bits of a refcount: 1, 2, 4, 8, 16, 32 or 64. Default 16, the only width in "0.10". */
  readonly refcountBits?: number
  /** Version 2 of the format, which QEMU calls "0.10", or version 3, "1.1". Default "1.1". */
  readonly compat?: "0.10" | "1.1"
  /**
   * "metadata": every guest cluster is allocated in the (sparse) file from the start. Default "off"; always "metadata" with `dataFileRaw`.
   */
  readonly preallocation?: "off" | "metadata"
  /**
   * Name of an external data file as the image stores it. That file holds the guest's data, each byte at its guest offset. `createImage`
   * makes it; otherwise it must exist, empty or all zeroes, when the image is opened. Needs compat "1.1".
   */
  readonly dataFile?: string
  /** The data file holds, byte for byte, what the guest sees. Needs `dataFile`, and no backing file. Default false. */
  readonly dataFileRaw?: boolean
  /** Sets the feature bit that lets other programs defer refcount updates. This program never does. Default false. */
  readonly lazyRefcounts?: boolean
  /**
   * Divides each cluster into 32 subclusters, which are allocated and copied one by one. Needs "1.1" and clusters of at least 16 KiB.
   * Larger clusters then do not slow down small writes: over a backing file, clusters of 128 KiB copy 4 KiB at a time. Default false.
   */
  readonly extendedL2?: boolean
  /** Encrypts the guest's data (LUKS), but not the metadata nor the backing file. Default: not encrypted. */
  readonly encryption?: LuksOptions
  /** The format of compressed clusters. "zstd" needs "1.1". Default "zlib". */
  readonly compressionType?: "zlib" | "zstd"
}

export const CREATE_QCOW2_RULES: Rules<CreateQcow2Options> = {
  size: "number", clusterSize: "number?", backing: "string?", backingFormat: ["raw", "qcow2", "luks"], refcountBits: "number?",
  compat: ["0.10", "1.1"],
  preallocation: ["off", "metadata"], lazyRefcounts: "boolean?", dataFile: "string?", dataFileRaw: "boolean?", extendedL2: "boolean?",
  encryption: "object?",
  compressionType: ["zlib", "zstd"],
}

const DEFAULT_CLUSTER_SIZE = 65536
const DEFAULT_REFCOUNT_BITS = 16

/** Refuses what QEMU refuses (QC-LIM-04), and combinations that are impossible. */
export function checkCreateOptions(options: CreateQcow2Options, path: string): Geometry {
  const refuse: Refuse = (message) => new BackingError("invalid-argument", message, { path })
  const clusterSize = options.clusterSize ?? DEFAULT_CLUSTER_SIZE
  const refcountBits = options.refcountBits ?? DEFAULT_REFCOUNT_BITS
  const version = options.compat === "0.10" ? 2 : 3
  const clusterBits = Math.log2(clusterSize)
  const refcountOrder = Math.log2(refcountBits)
  if (!Number.isSafeInteger(options.size) || options.size < 0) throw refuse(`the size ${options.size} is not a number of bytes`)
  if (!Number.isInteger(clusterBits) || clusterBits < LIMIT.CLUSTER_BITS_MIN || clusterBits > LIMIT.CLUSTER_BITS_MAX) {
    throw refuse(`the cluster size ${clusterSize} is not a power of two from 512 to 2097152`)
  }
  if (!Number.isInteger(refcountOrder) || refcountOrder < 0 || refcountOrder > LIMIT.REFCOUNT_ORDER_MAX) {
    throw refuse(`refcounts of ${refcountBits} bits: the width must be a power of two from 1 to 64`)
  }
  checkFeatures(options, refuse)
  checkBacking(options, refuse)
  checkDataFile(options, refuse)
  const geometry = makeGeometry({
    version,
    clusterBits,
    refcountOrder,
    extendedL2: options.extendedL2 === true,
    hasDataFile: options.dataFile !== undefined,
    size: roundUp(options.size, SECTOR_SIZE),
  })
  const most = (LIMIT.L1_TABLE_BYTES / TABLE_ENTRY_SIZE) * geometry.l2Coverage
  if (geometry.size > most || !Number.isSafeInteger(geometry.size)) {
    throw refuse(`a disk of ${options.size} bytes is too large for clusters of ${clusterSize} bytes, which allow ${most} at most`)
  }
  return geometry
}

/** Makes the error for invalid options. */
type Refuse = (message: string) => BackingError

/** Features that version 2 lacks, or that need large clusters. */
function checkFeatures(options: CreateQcow2Options, refuse: Refuse): void {
  const { compat, lazyRefcounts = false, extendedL2 = false, encryption, preallocation = "off" } = options
  const { refcountBits = DEFAULT_REFCOUNT_BITS, clusterSize = DEFAULT_CLUSTER_SIZE } = options
  if (compat === "0.10" && refcountBits !== DEFAULT_REFCOUNT_BITS) {
    throw refuse(`refcounts of ${refcountBits} bits need compat "1.1"; "0.10" has 16`)
  }
  if (compat === "0.10" && lazyRefcounts) throw refuse('lazy refcounts need compat "1.1"')
  if (compat === "0.10" && encryption !== undefined && preallocation !== "off") {
    throw refuse('preallocation of an encrypted image needs compat "1.1": "0.10" cannot say that what was not written is zeroes')
  }
  if (compat === "0.10" && options.compressionType === "zstd") throw refuse('the compression type zstd needs compat "1.1"')
  if (compat === "0.10" && extendedL2) throw refuse('extended L2 entries need compat "1.1"')
  const least = 2 ** LIMIT.EXTENDED_L2_CLUSTER_BITS_MIN
  if (extendedL2 && clusterSize < least) throw refuse(`extended L2 entries need clusters of at least ${least} bytes`)
}

function checkBacking(options: CreateQcow2Options, refuse: Refuse): void {
  const { backing, backingFormat, preallocation = "off", extendedL2 = false } = options
  if (backing === undefined) {
    if (backingFormat !== undefined) throw refuse("a backing format was given without a backing file")
    return
  }
  if (backingFormat === undefined) throw refuse(`the format of the backing file "${backing}" must be given`)
  if (backing === "") throw refuse("the name of the backing file is empty")
  if (encodeText(backing).length > LIMIT.BACKING_FILE_NAME_BYTES) {
    throw refuse(`the name of the backing file is longer than ${LIMIT.BACKING_FILE_NAME_BYTES} bytes`)
  }
  if (preallocation !== "off" && !extendedL2) {
    throw refuse("preallocation would hide the backing file's content; it needs extended L2 entries")
  }
}

function checkDataFile(options: CreateQcow2Options, refuse: Refuse): void {
  const { dataFile, dataFileRaw = false, backing, compat } = options
  if (dataFileRaw && dataFile === undefined) throw refuse("a raw data file needs a name")
  if (dataFile === undefined) return
  if (compat === "0.10") throw refuse('an external data file needs compat "1.1"')
  if (dataFile === "") throw refuse("the name of the data file is empty")
  if (encodeText(dataFile).length > LIMIT.BACKING_FILE_NAME_BYTES) {
    throw refuse(`the name of the data file is longer than ${LIMIT.BACKING_FILE_NAME_BYTES} bytes`)
  }
  if (dataFileRaw && backing !== undefined) {
    throw refuse("a raw data file holds all that the guest sees, so the image cannot have a backing file")
  }
}
