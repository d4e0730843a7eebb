/** The sizes that follow from a header: clusters, tables and their entries. All other code computes with this frozen value. */
import { EXTENDED_L2, TABLE_ENTRY_SIZE } from "./spec.ts"

/** Sizes and counts of one image. All byte counts are powers of two unless said otherwise. */
export interface Geometry {
  readonly version: 2 | 3
  readonly clusterBits: number
  /** Bytes in a cluster. */
  readonly clusterSize: number
  /** L2 entries have a second word, with the kind of each subcluster. [QCOW2] "Extended L2 Entries" */
  readonly extendedL2: boolean
  /** Bytes of an L2 entry. */
  readonly l2EntrySize: number
  /** Subclusters in a cluster: 1 without extended L2 entries, where the only subcluster is the cluster. */
  readonly subclusters: number
  /** Bytes in a subcluster. */
  readonly subclusterSize: number
  /** Entries in an L2 table, which is one cluster. */
  readonly l2Entries: number
  /** Guest bytes that one L2 table maps. */
  readonly l2Coverage: number
  readonly refcountOrder: number
  /** Width of a refcount in bits: 1 to 64. */
  readonly refcountBits: number
  /** Largest refcount of that width; for 64 bits the largest that a number holds exactly. */
  readonly refcountMax: number
  /** Refcounts in a refcount block, which is one cluster. */
  readonly refcountBlockEntries: number
  /** Guest-visible bytes; any number. */
  readonly size: number
  /** L1 entries that `size` needs. */
  readonly l1EntriesNeeded: number
  /** Guest data is in another file, each cluster at its guest offset (QC-DF-01). */
  readonly hasDataFile: boolean
}

/** What a `Geometry` is computed from. */
export interface GeometryFields {
  readonly version: 2 | 3
  readonly clusterBits: number
  readonly refcountOrder: number
  readonly size: number
  /** Default false. */
  readonly extendedL2?: boolean
  /** Default false. */
  readonly hasDataFile?: boolean
}

/** Computes the geometry. The fields have been checked: cluster bits 9 to 21, refcount order 0 to 6, size a safe integer. */
export function makeGeometry(fields: GeometryFields): Geometry {
  const clusterSize = 2 ** fields.clusterBits
  const extendedL2 = fields.extendedL2 === true
  const l2EntrySize = extendedL2 ? EXTENDED_L2.ENTRY_SIZE : TABLE_ENTRY_SIZE
  const subclusters = extendedL2 ? EXTENDED_L2.SUBCLUSTERS : 1
  const l2Entries = clusterSize / l2EntrySize
  const l2Coverage = clusterSize * l2Entries
  const refcountBits = 2 ** fields.refcountOrder
  return Object.freeze({
    version: fields.version,
    clusterBits: fields.clusterBits,
    clusterSize,
    extendedL2,
    l2EntrySize,
    subclusters,
    subclusterSize: clusterSize / subclusters,
    l2Entries,
    l2Coverage,
    refcountOrder: fields.refcountOrder,
    refcountBits,
    refcountMax: refcountBits === 64 ? Number.MAX_SAFE_INTEGER : 2 ** refcountBits - 1,
    refcountBlockEntries: (clusterSize * 8) / refcountBits,
    size: fields.size,
    l1EntriesNeeded: Math.ceil(fields.size / l2Coverage),
    hasDataFile: fields.hasDataFile ?? false,
  })
}
