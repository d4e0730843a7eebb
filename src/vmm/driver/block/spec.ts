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
} as const

/** [VIRTIO] 5.2.6: request types. */
export const BLK_T = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, GET_LIFETIME: 10, DISCARD: 11, WRITE_ZEROES: 13, SECURE_ERASE: 14 } as const

/** [VIRTIO] 5.2.6: request status. */
export const BLK_S = { OK: 0, IOERR: 1, UNSUPP: 2 } as const

/** [VIRTIO] 5.2.6: struct virtio_blk_req up to its data. Byte offsets. */
export const BLK_HEADER = { TYPE: 0, RESERVED: 4, SECTOR: 8, SIZE: 16 } as const

/** [VIRTIO] 5.2.6: struct virtio_blk_discard_write_zeroes. Byte offsets; UNMAP is a mask of the flags. */
export const BLK_RANGE = { SECTOR: 0, NUM_SECTORS: 8, FLAGS: 12, SIZE: 16, UNMAP: 0x1 } as const

/** [VIRTIO] 5.2.6: bytes of the device id string. */
export const BLK_ID_SIZE = 20

/** [VIRTIO] 5.2.6: bytes of struct virtio_blk_lifetime. */
export const BLK_LIFETIME_SIZE = 6
