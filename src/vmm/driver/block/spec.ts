/**
 * Constants of the virtio block device that a driver needs, typed from [VIRTIO] 5.2, not shared with the device.
 */

/** The unit of the protocol, whatever blk_size says. Bytes. */
export const SECTOR_SIZE = 512

/** [VIRTIO] 5.2.4: struct virtio_blk_config. Byte offsets. */
export const BLK_CONFIG = {
  CAPACITY: 0x00,
  SIZE_MAX: 0x08,
  SEG_MAX: 0x0c,
  CYLINDERS: 0x10,
  HEADS: 0x12,
  SECTORS: 0x13,
  BLK_SIZE: 0x14,
  PHYSICAL_BLOCK_EXP: 0x18,
  ALIGNMENT_OFFSET: 0x19,
  MIN_IO_SIZE: 0x1a,
  OPT_IO_SIZE: 0x1c,
  WRITEBACK: 0x20,
  NUM_QUEUES: 0x22,
  MAX_DISCARD_SECTORS: 0x24,
  MAX_DISCARD_SEG: 0x28,
  DISCARD_SECTOR_ALIGNMENT: 0x2c,
  MAX_WRITE_ZEROES_SECTORS: 0x30,
  MAX_WRITE_ZEROES_SEG: 0x34,
  WRITE_ZEROES_MAY_UNMAP: 0x38,
  MAX_SECURE_ERASE_SECTORS: 0x3c,
  MAX_SECURE_ERASE_SEG: 0x40,
  SECURE_ERASE_SECTOR_ALIGNMENT: 0x44,
  ZONE_SECTORS: 0x48,
  MAX_OPEN_ZONES: 0x4c,
  MAX_ACTIVE_ZONES: 0x50,
  MAX_APPEND_SECTORS: 0x54,
  WRITE_GRANULARITY: 0x58,
  ZONED_MODEL: 0x5c,
} as const

/** [VIRTIO] 5.2.6: request types. */
export const BLK_T = {
  IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, GET_LIFETIME: 10, DISCARD: 11, WRITE_ZEROES: 13, SECURE_ERASE: 14,
  ZONE_APPEND: 15, ZONE_REPORT: 16, ZONE_OPEN: 18, ZONE_CLOSE: 20, ZONE_FINISH: 22, ZONE_RESET: 24, ZONE_RESET_ALL: 26,
} as const

/** [VIRTIO] 5.2.6: request status. */
export const BLK_S = {
  OK: 0, IOERR: 1, UNSUPP: 2, ZONE_INVALID_CMD: 3, ZONE_UNALIGNED_WP: 4, ZONE_OPEN_RESOURCE: 5, ZONE_ACTIVE_RESOURCE: 6,
} as const

/** [VIRTIO] 5.2.6: struct virtio_blk_zone_report and virtio_blk_zone_descriptor. Bytes. */
export const BLK_ZONE_REPORT = { HEADER_SIZE: 64, ZONE_SIZE: 64, CAPACITY: 0, START: 8, WRITE_POINTER: 16, TYPE: 24, STATE: 25 } as const

/** [VIRTIO] 5.2.6: zone types and states, by number. */
export const BLK_ZONE_TYPES: ReadonlyMap<number, "CONV" | "SWR" | "SWP"> = new Map([[1, "CONV"], [2, "SWR"], [3, "SWP"]])
export type BlockZoneState = "NOT_WP" | "EMPTY" | "IOPEN" | "EOPEN" | "CLOSED" | "RDONLY" | "FULL" | "OFFLINE"
export const BLK_ZONE_STATES: ReadonlyMap<number, BlockZoneState> = new Map(
  [[0, "NOT_WP"], [1, "EMPTY"], [2, "IOPEN"], [3, "EOPEN"], [4, "CLOSED"], [13, "RDONLY"], [14, "FULL"], [15, "OFFLINE"]],
)

/** [VIRTIO] 5.2.4: models of zoned disks, by number. */
export const BLK_ZONED_MODELS: ReadonlyMap<number, "none" | "host-managed" | "host-aware"> = new Map(
  [[0, "none"], [1, "host-managed"], [2, "host-aware"]],
)

/** Bytes of append_sector. */
export const BLK_APPEND_SECTOR_SIZE = 8

/** [VIRTIO] 5.2.6: struct virtio_blk_req up to its data. Byte offsets. */
export const BLK_HEADER = { TYPE: 0, RESERVED: 4, SECTOR: 8, SIZE: 16 } as const

/** [VIRTIO] 5.2.6: struct virtio_blk_discard_write_zeroes. Byte offsets; UNMAP is a mask of the flags. */
export const BLK_RANGE = { SECTOR: 0, NUM_SECTORS: 8, FLAGS: 12, SIZE: 16, UNMAP: 0x1 } as const

/** [VIRTIO] 5.2.6: bytes of the device id string. */
export const BLK_ID_SIZE = 20

/** [VIRTIO] 5.2.6: bytes of struct virtio_blk_lifetime. */
export const BLK_LIFETIME_SIZE = 6
