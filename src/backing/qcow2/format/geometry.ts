/** The sizes that follow from a header: clusters, tables and their entries. A frozen value that everything else computes with. */
import { TABLE_ENTRY_SIZE } from "./spec.ts"

/** Sizes and counts of one image. All byte counts are powers of two unless said otherwise. */
export interface Geometry {
  readonly version: 2 | 3
  readonly clusterBits: number
  /** Bytes in a cluster. */
  readonly clusterSize: number
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
}

/** What a `Geometry` is computed from. */
export interface GeometryFields {
  readonly version: 2 | 3
  readonly clusterBits: number
  readonly refcountOrder: number
  readonly size: number
}

/** Computes the geometry. The fields have been checked: cluster bits 9 to 21, refcount order 0 to 6, size a safe integer. */
export function makeGeometry(fields: GeometryFields): Geometry {
  const clusterSize = 2 ** fields.clusterBits
  const l2Entries = clusterSize / TABLE_ENTRY_SIZE
  const l2Coverage = clusterSize * l2Entries
  const refcountBits = 2 ** fields.refcountOrder
  return Object.freeze({
    version: fields.version,
    clusterBits: fields.clusterBits,
    clusterSize,
    l2Entries,
    l2Coverage,
    refcountOrder: fields.refcountOrder,
    refcountBits,
    refcountMax: refcountBits === 64 ? Number.MAX_SAFE_INTEGER : 2 ** refcountBits - 1,
    refcountBlockEntries: (clusterSize * 8) / refcountBits,
    size: fields.size,
    l1EntriesNeeded: Math.ceil(fields.size / l2Coverage),
  })
}
