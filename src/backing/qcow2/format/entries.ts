/**
 * Decodes and encodes the 64-bit words in L1, L2 and refcount tables, as two 32-bit halves. The only place that knows their bits.
 *
 * Standard L2 entry                          Compressed L2 entry, x = 62 - (cluster_bits - 8)
 *   bit  0      reads as zeroes                bits 0 .. x-1   host offset in bytes, any alignment
 *   bits 9-55   host cluster offset            bits x .. 61    further 512-byte sectors
 *   bit  62     0                              bit  62         1
 *   bit  63     COPIED: refcount is one        bit  63         0
 *
 * The first word of an extended L2 entry is the same, but bit 0 is unused: subclusters.ts has its second word.
 */
import type { Geometry } from "./geometry.ts"
import { L1_ENTRY, L2_ENTRY, REFCOUNT_TABLE_ENTRY, SECTOR_SIZE } from "./spec.ts"

const TWO_32 = 2 ** 32
/** Host offsets are numbers, which are exact below 2^53; no file system holds a larger file. */
const OFFSET_LIMIT = 2 ** 53

/** A 64-bit word in two unsigned halves. */
export interface Word {
  readonly hi: number
  readonly lo: number
}

/** A decoded L1 entry. `reserved`: a reserved bit is set, which reads and writes ignore and a check reports (QC-L1-02). */
export type L1Entry =
  | { readonly kind: "empty"; readonly reserved: boolean }
  | { readonly kind: "table"; readonly offset: number; readonly copied: boolean; readonly reserved: boolean }
  | { readonly kind: "corrupt"; readonly offset: number; readonly reason: string; readonly reserved: boolean }

/** Kinds of L2 entries as small numbers, for code that must not allocate objects. */
export const L2_KIND = { UNALLOCATED: 0, NORMAL: 1, ZERO: 2, ZERO_ALLOCATED: 3, COMPRESSED: 4, CORRUPT: 5 } as const
export type L2Kind = (typeof L2_KIND)[keyof typeof L2_KIND]

/** A decoded L2 entry. */
export type L2Entry =
  | { readonly kind: "unallocated"; readonly reserved: boolean }
  | { readonly kind: "normal"; readonly offset: number; readonly copied: boolean; readonly reserved: boolean }
  | { readonly kind: "zero"; readonly reserved: boolean }
  | { readonly kind: "zero-allocated"; readonly offset: number; readonly copied: boolean; readonly reserved: boolean }
  | { readonly kind: "compressed"; readonly offset: number; readonly length: number; readonly copied: boolean }
  | { readonly kind: "corrupt"; readonly offset: number; readonly reason: string; readonly reserved: boolean }

/** A decoded refcount table entry. */
export type RefcountTableEntry =
  | { readonly kind: "empty"; readonly reserved: boolean }
  | { readonly kind: "block"; readonly offset: number; readonly reserved: boolean }
  | { readonly kind: "corrupt"; readonly offset: number; readonly reason: string; readonly reserved: boolean }

/** Bits 9-55 of an L1 entry or a standard L2 entry, in bytes. Exact below 2^53. */
export function hostOffset(hi: number, lo: number): number {
  return (hi & L2_ENTRY.OFFSET_HI) * TWO_32 + ((lo & L2_ENTRY.OFFSET_LO) >>> 0)
}

/** Whether COPIED (bit 63) is set. */
export function isCopied(hi: number): boolean {
  return (hi & L2_ENTRY.COPIED_HI) !== 0
}

/** Kind of an L2 entry, in QEMU's order: compressed first, then the zero flag, then the offset (QC-L2-02). */
export function l2Kind(hi: number, lo: number, geometry: Geometry): L2Kind {
  if ((hi & L2_ENTRY.COMPRESSED_HI) !== 0) {
    return compressedOffset(hi, lo, geometry) < OFFSET_LIMIT && !geometry.hasDataFile ? L2_KIND.COMPRESSED : L2_KIND.CORRUPT
  }
  // Cluster sizes stay below 2^32, so an unaligned offset shows in the low half.
  const unaligned = (lo & L2_ENTRY.OFFSET_LO & (geometry.clusterSize - 1)) !== 0 || (hi & L2_ENTRY.OFFSET_HI) >= OFFSET_LIMIT / TWO_32
  const offset = hostOffset(hi, lo)
  if ((lo & L2_ENTRY.ZERO_LO) !== 0 && !geometry.extendedL2) {
    if (unaligned || geometry.version < 3) return L2_KIND.CORRUPT
    return offset === 0 ? L2_KIND.ZERO : L2_KIND.ZERO_ALLOCATED
  }
  // Bit 63 without an offset means cluster 0 only in an external data file (QC-L2-07, QC-DF-03).
  if (offset === 0) return geometry.hasDataFile && isCopied(hi) ? L2_KIND.NORMAL : L2_KIND.UNALLOCATED
  return unaligned ? L2_KIND.CORRUPT : L2_KIND.NORMAL
}

/**
 * Host byte of the cluster of an L2 entry that is certainly normal, or -1: then ask `l2Kind`. Reads try this first (it saves 20 ns of 60).
 */
export function plainHostOffset(hi: number, lo: number, clusterSize: number): number {
  // The low half shows the zero flag, unaligned offsets and reserved bits; the high half shows compressed clusters and offsets from 2^53
  // on.
  if ((lo & (clusterSize - 1)) !== 0 || (hi & (L2_ENTRY.COMPRESSED_HI | 0x00e0_0000)) !== 0) return -1
  const offset = hostOffset(hi, lo)
  return offset === 0 ? -1 : offset
}

/** Host byte of the L2 table that an L1 entry names; 0 without one, -1 if it is invalid. Like `decodeL1Entry`, but allocates no object. */
export function l1TableOffset(hi: number, lo: number, geometry: Geometry): number {
  const unaligned = (lo & L1_ENTRY.OFFSET_LO & (geometry.clusterSize - 1)) !== 0 || (hi & L1_ENTRY.OFFSET_HI) >= OFFSET_LIMIT / TWO_32
  return unaligned ? -1 : hostOffset(hi, lo)
}

/** Host byte where a compressed cluster starts. */
export function compressedOffset(hi: number, lo: number, geometry: Geometry): number {
  // x - 32: from 17 for clusters of 2 MiB to 29 for 512 bytes.
  const offsetBitsHi = 38 - geometry.clusterBits
  return (hi & ((1 << offsetBitsHi) - 1)) * TWO_32 + lo
}

/**
 * Host byte where compressed data must end: bits 56 and up of an offset must be 0, and large clusters leave fewer bits for it (QC-CMP-03).
 */
export function compressedLimit(geometry: Geometry): number {
  return Math.min(2 ** (70 - geometry.clusterBits), OFFSET_LIMIT)
}

/** The entry of a compressed cluster whose `length` bytes begin at host byte `offset`; it never has COPIED (QC-CMP-04). */
export function encodeCompressedEntry(entry: { readonly offset: number; readonly length: number }, geometry: Geometry): Word {
  const { offset, length } = entry
  const furtherSectors = Math.floor((offset + length - 1) / SECTOR_SIZE) - Math.floor(offset / SECTOR_SIZE)
  const hi = Math.floor(offset / TWO_32) | (furtherSectors << (38 - geometry.clusterBits)) | L2_ENTRY.COMPRESSED_HI
  return { hi: hi >>> 0, lo: offset % TWO_32 }
}

/** Maximum bytes of a compressed cluster: from its offset to the end of its last sector (QC-CMP-02). */
export function compressedLength(hi: number, lo: number, geometry: Geometry): number {
  const furtherSectors = (hi & 0x3fff_ffff) >>> (38 - geometry.clusterBits)
  return (furtherSectors + 1) * SECTOR_SIZE - (lo & (SECTOR_SIZE - 1))
}

/** Decodes an L1 entry. An offset that is unaligned, or 2^53 or more, is corrupt. */
export function decodeL1Entry(hi: number, lo: number, geometry: Geometry): L1Entry {
  const reserved = (hi & L1_ENTRY.RESERVED_HI) !== 0 || (lo & L1_ENTRY.RESERVED_LO) !== 0
  const offset = hostOffset(hi, lo)
  if (offset === 0) return { kind: "empty", reserved }
  const reason = badOffset(offset, geometry)
  return reason === undefined ? { kind: "table", offset, copied: isCopied(hi), reserved } : { kind: "corrupt", offset, reason, reserved }
}

/** Decodes an L2 entry. */
export function decodeL2Entry(hi: number, lo: number, geometry: Geometry): L2Entry {
  const reserved = (hi & L2_ENTRY.RESERVED_HI) !== 0 || (lo & L2_ENTRY.RESERVED_LO) !== 0
  const offset = hostOffset(hi, lo)
  const copied = isCopied(hi)
  switch (l2Kind(hi, lo, geometry)) {
    case L2_KIND.UNALLOCATED:
      return { kind: "unallocated", reserved }
    case L2_KIND.NORMAL:
      return { kind: "normal", offset, copied, reserved }
    case L2_KIND.ZERO:
      return { kind: "zero", reserved }
    case L2_KIND.ZERO_ALLOCATED:
      return { kind: "zero-allocated", offset, copied, reserved }
    case L2_KIND.COMPRESSED:
      return { kind: "compressed", offset: compressedOffset(hi, lo, geometry), length: compressedLength(hi, lo, geometry), copied }
    case L2_KIND.CORRUPT:
      return { kind: "corrupt", offset, reason: corruptReason(hi, lo, geometry), reserved }
  }
}

function corruptReason(hi: number, lo: number, geometry: Geometry): string {
  if ((hi & L2_ENTRY.COMPRESSED_HI) !== 0) {
    if (geometry.hasDataFile) return "a compressed cluster, which an image with an external data file cannot have"
    return "the compressed cluster lies beyond the largest file offset"
  }
  if ((lo & L2_ENTRY.ZERO_LO) !== 0 && geometry.version < 3) return "the zero flag is set in a version 2 image"
  return badOffset(hostOffset(hi, lo), geometry) ?? "the entry is invalid"
}

/** Decodes a refcount table entry; its offset may use bits 9-63 (QC-REF-01). */
export function decodeRefcountTableEntry(hi: number, lo: number, geometry: Geometry): RefcountTableEntry {
  const reserved = (lo & REFCOUNT_TABLE_ENTRY.RESERVED_LO) !== 0
  const offset = hi * TWO_32 + ((lo & REFCOUNT_TABLE_ENTRY.OFFSET_LO) >>> 0)
  if (offset === 0) return { kind: "empty", reserved }
  const reason = badOffset(offset, geometry)
  return reason === undefined ? { kind: "block", offset, reserved } : { kind: "corrupt", offset, reason, reserved }
}

function badOffset(offset: number, geometry: Geometry): string | undefined {
  if (offset >= OFFSET_LIMIT) return "the offset lies beyond 2^53"
  return offset % geometry.clusterSize === 0 ? undefined : "the offset is not a multiple of the cluster size"
}

/** Encodes a standard entry: an L1 entry with a table, or an L2 entry with a normal cluster. */
export function encodeEntry(entry: { readonly offset: number; readonly copied: boolean }): Word {
  const hi = Math.floor(entry.offset / TWO_32)
  return { hi: entry.copied ? (hi | L2_ENTRY.COPIED_HI) >>> 0 : hi, lo: entry.offset % TWO_32 }
}
