/** Constants typed from the specifications, independent of the device's source. */

/** Device status: [VIRTIO] 2.1. */
export const STATUS = {
  ACKNOWLEDGE: 0x01, DRIVER: 0x02, DRIVER_OK: 0x04, FEATURES_OK: 0x08, SUSPEND: 0x10, NEEDS_RESET: 0x40, FAILED: 0x80,
} as const
export const { NEEDS_RESET } = STATUS
/** The status of a running modern driver, and of a legacy one: [VIRTIO] 3.1.1. */
export const UP = 0x0f
export const LEGACY_UP = 0x07

/** Feature bits: [VIRTIO] 5.2.3, 5.2.3.1, 6 and 6.3. */
export const F = {
  BARRIER: 0, SIZE_MAX: 1, SEG_MAX: 2, GEOMETRY: 4, RO: 5, BLK_SIZE: 6, SCSI: 7, FLUSH: 9, TOPOLOGY: 10, CONFIG_WCE: 11, MQ: 12,
  DISCARD: 13, WRITE_ZEROES: 14, LIFETIME: 15, SECURE_ERASE: 16, ZONED: 17, NOTIFY_ON_EMPTY: 24, ANY_LAYOUT: 27, INDIRECT_DESC: 28,
  EVENT_IDX: 29, UNUSED_30: 30, VERSION_1: 32, ACCESS_PLATFORM: 33, RING_PACKED: 34, IN_ORDER: 35, ORDER_PLATFORM: 36, SR_IOV: 37,
  NOTIFICATION_DATA: 38, NOTIF_CONFIG_DATA: 39, RING_RESET: 40, ADMIN_VQ: 41, SUSPEND: 43,
} as const

/** The feature word with these bits. */
export function mask(...bits: readonly number[]): bigint {
  return bits.reduce((word, bit) => word | (1n << BigInt(bit)), 0n)
}

export const VERSION_1 = mask(F.VERSION_1)

/** Offsets in the common configuration structure: [VIRTIO] 4.1.4.3. */
export const COMMON = {
  deviceFeatureSelect: 0x00, deviceFeature: 0x04, driverFeatureSelect: 0x08, driverFeature: 0x0c, configVector: 0x10, numQueues: 0x12,
  status: 0x14, generation: 0x15, queueSelect: 0x16, queueSize: 0x18, queueVector: 0x1a, queueEnable: 0x1c, queueNotifyOff: 0x1e,
  queueDesc: 0x20, queueDriver: 0x28, queueDevice: 0x30, queueNotifConfigData: 0x38, queueReset: 0x3a, adminQueueIndex: 0x3c,
  adminQueueNum: 0x3e,
} as const

/** Offsets in BAR 0 of the legacy interface: [VIRTIO] 4.1.4.10. */
export const LEGACY = {
  deviceFeatures: 0x00, driverFeatures: 0x04, queueAddress: 0x08, queueSize: 0x0c, queueSelect: 0x0e, queueNotify: 0x10, status: 0x12,
  isr: 0x13, configVector: 0x14, queueVector: 0x16, device: 0x14, deviceMsix: 0x18,
} as const

/** cfg_type: [VIRTIO] 4.1.4. */
export const CAP = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5 } as const
export const NO_VECTOR = 0xffff

/** Descriptor flags: [VIRTIO] 2.7.5. */
export const NEXT = 1
export const WRITE = 2
export const INDIRECT = 4

/** Request types: [VIRTIO] 5.2.6. */
export const T = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, GET_LIFETIME: 10, DISCARD: 11, WRITE_ZEROES: 13, SECURE_ERASE: 14 } as const
/** Types of requests of zoned disks: [VIRTIO] 5.2.6. */
export const ZONE = { APPEND: 15, REPORT: 16, OPEN: 18, CLOSE: 20, FINISH: 22, RESET: 24, RESET_ALL: 26 } as const
/** Status bytes: [VIRTIO] 5.2.6. */
export const OK = 0
export const IOERR = 1
export const UNSUPP = 2
/** Status bytes of zoned disks. */
export const INVALID_CMD = 3
export const UNALIGNED_WP = 4
export const OPEN_RESOURCE = 5
export const ACTIVE_RESOURCE = 6
/** Status bytes hold this until the device writes them. */
export const UNTOUCHED = 0xee

/** Packed rings: the AVAIL and USED flags ([VIRTIO] 2.8.1), and the flags of event suppression (2.8.10). */
export const AVAIL = 0x0080
export const USED = 0x8000
export const EVENT = { ENABLE: 0, DISABLE: 1, DESC: 2 } as const
