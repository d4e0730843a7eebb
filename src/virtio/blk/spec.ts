/** Constants of the block device, [VIRTIO] 5.2, one object for each table, in its spelling. */
import type { ConfigField } from "../device-config.ts"

/** [VIRTIO] 5.2: the device type. */
export const VIRTIO_ID_BLOCK = 2

/** [VIRTIO] 5.2.3 "Feature bits": bit numbers. */
export const VIRTIO_BLK_F = {
  SIZE_MAX: 1,
  SEG_MAX: 2,
  GEOMETRY: 4,
  RO: 5,
  BLK_SIZE: 6,
  FLUSH: 9,
  TOPOLOGY: 10,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
  LIFETIME: 15,
  SECURE_ERASE: 16,
  ZONED: 17,
} as const

/** [VIRTIO] 5.2.6: request types; 5.2.6.3 for FLUSH_OUT. */
export const VIRTIO_BLK_T = {
  IN: 0, OUT: 1, FLUSH: 4, FLUSH_OUT: 5, GET_ID: 8, GET_LIFETIME: 10, DISCARD: 11, WRITE_ZEROES: 13, SECURE_ERASE: 14,
  ZONE_APPEND: 15, ZONE_REPORT: 16, ZONE_OPEN: 18, ZONE_CLOSE: 20, ZONE_FINISH: 22, ZONE_RESET: 24, ZONE_RESET_ALL: 26,
} as const

/** [VIRTIO] 5.2.6.3: bit 31 of a legacy request's type, which this device never offers and therefore ignores. */
export const VIRTIO_BLK_T_BARRIER = 0x8000_0000

/** [VIRTIO] 5.2.6: the status byte. */
export const VIRTIO_BLK_S = {
  OK: 0, IOERR: 1, UNSUPP: 2, ZONE_INVALID_CMD: 3, ZONE_UNALIGNED_WP: 4, ZONE_OPEN_RESOURCE: 5, ZONE_ACTIVE_RESOURCE: 6,
} as const
export type BlkStatus = (typeof VIRTIO_BLK_S)[keyof typeof VIRTIO_BLK_S]

/** [VIRTIO] 5.2.6: flags of a discard or write-zeroes segment. */
export const VIRTIO_BLK_WRITE_ZEROES_F = { UNMAP: 1 } as const

/** Bytes of a sector, whatever blk_size says. */
export const SECTOR_SIZE = 512
/** Bytes of a request's header: le32 type, le32 reserved, le64 sector. */
export const HEADER_SIZE = 16
/** Bytes of a discard or write-zeroes segment: le64 sector, le32 num_sectors, le32 flags. */
export const SEGMENT_SIZE = 16
/** Bytes that GET_ID returns. */
export const ID_SIZE = 20
/** Bytes that GET_LIFETIME returns: le16 pre_eol_info, le16 device_lifetime_est_typ_a, le16 device_lifetime_est_typ_b. */
export const LIFETIME_SIZE = 6
/** [VIRTIO] 5.2.6: the largest values of the three; those above are reserved. */
export const MAX_PRE_EOL_INFO = 3
export const MAX_LIFETIME_EST = 11

/** [VIRTIO] 5.2.4 "Device configuration layout": byte offsets. */
export const VIRTIO_BLK_CONFIG = {
  capacity: 0x00,
  size_max: 0x08,
  seg_max: 0x0c,
  geometry_cylinders: 0x10,
  geometry_heads: 0x12,
  geometry_sectors: 0x13,
  blk_size: 0x14,
  topology_physical_block_exp: 0x18,
  topology_alignment_offset: 0x19,
  topology_min_io_size: 0x1a,
  topology_opt_io_size: 0x1c,
  writeback: 0x20,
  num_queues: 0x22,
  max_discard_sectors: 0x24,
  max_discard_seg: 0x28,
  discard_sector_alignment: 0x2c,
  max_write_zeroes_sectors: 0x30,
  max_write_zeroes_seg: 0x34,
  write_zeroes_may_unmap: 0x38,
  max_secure_erase_sectors: 0x3c,
  max_secure_erase_seg: 0x40,
  secure_erase_sector_alignment: 0x44,
  zoned_zone_sectors: 0x48,
  zoned_max_open_zones: 0x4c,
  zoned_max_active_zones: 0x50,
  zoned_max_append_sectors: 0x54,
  zoned_write_granularity: 0x58,
  zoned_model: 0x5c,
} as const

/** [VIRTIO] 5.2.4: `model` of zoned disks. */
export const VIRTIO_BLK_Z = { NONE: 0, HM: 1, HA: 2 } as const

/** [VIRTIO] 5.2.6: the type of a zone, and its state. */
export const VIRTIO_BLK_ZT = { CONV: 1, SWR: 2, SWP: 3 } as const
export const VIRTIO_BLK_ZS = { NOT_WP: 0, EMPTY: 1, IOPEN: 2, EOPEN: 3, CLOSED: 4, RDONLY: 13, FULL: 14, OFFLINE: 15 } as const

/** [VIRTIO] 5.2.6: bytes of the header of a zone report, and of a zone in it; offsets of their fields. */
export const ZONE_REPORT_HEADER_SIZE = 64
export const ZONE_DESCRIPTOR_SIZE = 64
export const ZONE_DESCRIPTOR = { z_cap: 0, z_start: 8, z_wp: 16, z_type: 24, z_state: 25 } as const
/** Bytes of append_sector. */
export const APPEND_SECTOR_SIZE = 8

/** The fields of more than one byte that a legacy driver may see, in bytes. */
export const VIRTIO_BLK_CONFIG_FIELDS: readonly ConfigField[] = [
  { offset: 0x00, width: 8 },
  ...[0x10, 0x1a, 0x22].map((offset) => ({ offset, width: 2 }) as const),
  ...[0x08, 0x0c, 0x14, 0x1c, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x3c, 0x40, 0x44].map((offset) => ({ offset, width: 4 }) as const),
]

/** Bytes of the whole structure, the fields of features that we do not offer included. */
export const VIRTIO_BLK_CONFIG_SIZE = 0x60
