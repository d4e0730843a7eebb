/**
 * Constants of the qcow2 format, one object for each table of the specification. test/spec/README.md names the revision of [QCOW2]. Bit 0
 * is the least significant bit of a 64-bit word; every number in a file is big-endian. Masks come in two halves (HI: bits 32-63, LO: bits
 * 0-31), because bit operations of JavaScript work on 32 bits.
 */

/** "QFI" and 0xFB. [QCOW2] "Header" */
export const QCOW2_MAGIC = 0x5146_49fb

/** Byte positions of the header fields. [QCOW2] "Header" */
export const HEADER_FIELD = {
  MAGIC: 0,
  VERSION: 4,
  BACKING_FILE_OFFSET: 8,
  BACKING_FILE_SIZE: 16,
  CLUSTER_BITS: 20,
  SIZE: 24,
  CRYPT_METHOD: 32,
  L1_SIZE: 36,
  L1_TABLE_OFFSET: 40,
  REFCOUNT_TABLE_OFFSET: 48,
  REFCOUNT_TABLE_CLUSTERS: 56,
  NB_SNAPSHOTS: 60,
  SNAPSHOTS_OFFSET: 64,
  INCOMPATIBLE_FEATURES: 72,
  COMPATIBLE_FEATURES: 80,
  AUTOCLEAR_FEATURES: 88,
  REFCOUNT_ORDER: 96,
  HEADER_LENGTH: 100,
  COMPRESSION_TYPE: 104,
} as const

/** Header sizes: of version 2, the minimum of version 3, and the one that we write (with the compression type and its padding). */
export const HEADER_SIZE = { V2: 72, V3_MINIMUM: 104, V3_WRITTEN: 112 } as const

/** Bit numbers of incompatible_features. [QCOW2] "Header" */
export const INCOMPATIBLE_BIT = { DIRTY: 0, CORRUPT: 1, EXTERNAL_DATA_FILE: 2, COMPRESSION_TYPE: 3, EXTENDED_L2: 4 } as const

/** Bit numbers of compatible_features. */
export const COMPATIBLE_BIT = { LAZY_REFCOUNTS: 0 } as const

/** Bit numbers of autoclear_features. */
export const AUTOCLEAR_BIT = { BITMAPS: 0, RAW_EXTERNAL_DATA: 1 } as const

/** crypt_method. */
export const CRYPT_METHOD = { NONE: 0, AES: 1, LUKS: 2 } as const

/** compression_type. */
export const COMPRESSION_TYPE = { ZLIB: 0, ZSTD: 1 } as const

/** Header extension types. [QCOW2] "Header extensions" */
export const EXTENSION_TYPE = {
  END: 0x0000_0000,
  BACKING_FORMAT: 0xe279_2aca,
  FEATURE_NAME_TABLE: 0x6803_f857,
  BITMAPS: 0x2385_2875,
  FULL_DISK_ENCRYPTION: 0x0537_be77,
  EXTERNAL_DATA_FILE_NAME: 0x4441_5441,
} as const

/** One entry of the feature name table. [QCOW2] "Feature name table" */
export const FEATURE_NAME = { ENTRY_SIZE: 48, NAME_SIZE: 46, TYPE_INCOMPATIBLE: 0, TYPE_COMPATIBLE: 1, TYPE_AUTOCLEAR: 2 } as const

/** L1 table entry: bits 9-55 L2 table offset, bit 63 COPIED. [QCOW2] "Cluster mapping" */
export const L1_ENTRY = {
  OFFSET_HI: 0x00ff_ffff, OFFSET_LO: 0xffff_fe00, COPIED_HI: 0x8000_0000, RESERVED_HI: 0x7f00_0000, RESERVED_LO: 0x0000_01ff,
} as const

/** L2 table entry: bit 62 compressed, bit 63 COPIED; in a standard descriptor bits 9-55 host offset, bit 0 reads as zeroes. */
export const L2_ENTRY = {
  OFFSET_HI: 0x00ff_ffff,
  OFFSET_LO: 0xffff_fe00,
  COPIED_HI: 0x8000_0000,
  COMPRESSED_HI: 0x4000_0000,
  ZERO_LO: 0x0000_0001,
  RESERVED_HI: 0x3f00_0000,
  RESERVED_LO: 0x0000_01fe,
} as const

/**
 * Extended L2 entry: the word of a standard one, whose bit 0 is unused, and a bitmap. Subcluster 0 has the least significant bit of each
 * half: bits 32-63 read as zeroes, bits 0-31 allocated. [QCOW2] "Extended L2 Entries"
 */
export const EXTENDED_L2 = { ENTRY_SIZE: 16, ZERO_BITS: 8, ALLOCATED_BITS: 12, SUBCLUSTERS: 32 } as const

/** Refcount table entry: bits 9-63 refcount block offset. [QCOW2] "Host cluster management" */
export const REFCOUNT_TABLE_ENTRY = { OFFSET_LO: 0xffff_fe00, RESERVED_LO: 0x0000_01ff } as const

/** Bytes of one entry of an L1 or refcount table, or of an L2 table without extended entries (`Geometry.l2EntrySize`). */
export const TABLE_ENTRY_SIZE = 8

/** Fixed part of a snapshot table entry, and the known extra data. [QCOW2] "Snapshots" */
export const SNAPSHOT_FIELD = {
  L1_TABLE_OFFSET: 0,
  L1_SIZE: 8,
  ID_SIZE: 12,
  NAME_SIZE: 14,
  DATE_SECONDS: 16,
  DATE_NANOSECONDS: 20,
  VM_CLOCK: 24,
  VM_STATE_SIZE: 32,
  EXTRA_DATA_SIZE: 36,
  EXTRA_DATA: 40,
} as const

/** Limits of QEMU, which the specification does not have. With them both programs open the same images, and allocations are bounded. */
export const LIMIT = {
  CLUSTER_BITS_MIN: 9,
  CLUSTER_BITS_MAX: 21,
  /** Minimum with extended L2 entries: subclusters have 512 bytes then. */
  EXTENDED_L2_CLUSTER_BITS_MIN: 14,
  REFCOUNT_ORDER_MAX: 6,
  L1_TABLE_BYTES: 32 * 1024 * 1024,
  REFCOUNT_TABLE_BYTES: 8 * 1024 * 1024,
  BACKING_FILE_NAME_BYTES: 1023,
  BACKING_FORMAT_BYTES: 15,
  SNAPSHOTS: 65536,
  SNAPSHOT_TABLE_BYTES: 64 * 1024 * 1024,
  SNAPSHOT_EXTRA_DATA_BYTES: 1024,
} as const

/** Sectors of 512 bytes: the unit of a compressed cluster's size. */
export const SECTOR_SIZE = 512
