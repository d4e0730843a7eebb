/**
 * Constants of virtio that a driver needs, typed from [VIRTIO] (test/spec/README.md names its revision) and not shared with the device.
 */

/** [VIRTIO] 4.1.2: PCI ids of a virtio device. Transitional ids go by type; 0x1001 is the block device. */
export const VIRTIO_PCI_ID = {
  VENDOR: 0x1af4, FIRST_DEVICE: 0x1000, MODERN_BASE: 0x1040, LAST_DEVICE: 0x107f, TRANSITIONAL_BLOCK: 0x1001,
} as const

/** [VIRTIO] 5: device ids. */
export const VIRTIO_ID = { BLOCK: 2 } as const

/** A byte register reads this when no device answers. */
export const NOBODY = 0xff

/** [VIRTIO] 2.1: device status. Masks. */
export const DEVICE_STATUS = {
  ACKNOWLEDGE: 0x01,
  DRIVER: 0x02,
  DRIVER_OK: 0x04,
  FEATURES_OK: 0x08,
  SUSPEND: 0x10,
  DEVICE_NEEDS_RESET: 0x40,
  FAILED: 0x80,
} as const

/** [VIRTIO] 2.7.5: flags of a descriptor. */
export const DESCRIPTOR_FLAG = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const

/** [VIRTIO] 2.7.5: struct virtq_desc. Byte offsets. */
export const DESCRIPTOR = { ADDRESS: 0, LENGTH: 8, FLAGS: 12, NEXT: 14, SIZE: 16 } as const

/** [VIRTIO] 2.8.13: struct pvirtq_desc. Byte offsets. */
export const PACKED_DESCRIPTOR = { ADDRESS: 0, LENGTH: 8, ID: 12, FLAGS: 14, SIZE: 16 } as const

/** [VIRTIO] 2.8.1: flags that say who has a descriptor of a packed ring. */
export const PACKED_FLAG = { AVAIL: 0x0080, USED: 0x8000 } as const

/** [VIRTIO] 2.8.14: struct pvirtq_event_suppress. Byte offsets. */
export const RING_EVENT = { DESCRIPTOR: 0, FLAGS: 2, SIZE: 4 } as const

/** [VIRTIO] 2.8.10: values of its flags. */
export const RING_EVENT_FLAGS = { ENABLE: 0, DISABLE: 1, DESC: 2, MASK: 3 } as const

/** [VIRTIO] 2.7.6: struct virtq_avail. Byte offsets; used_event follows the ring. */
export const AVAILABLE = { FLAGS: 0, INDEX: 2, RING: 4, ENTRY_SIZE: 2, FLAG_NO_INTERRUPT: 1 } as const

/** [VIRTIO] 2.7.8: struct virtq_used. Byte offsets; avail_event follows the ring. */
export const USED = { FLAGS: 0, INDEX: 2, RING: 4, ENTRY_SIZE: 8, ENTRY_ID: 0, ENTRY_LENGTH: 4, FLAG_NO_NOTIFY: 1 } as const

/** [VIRTIO] 2.7 and 2.8: the largest virtqueue. */
export const QUEUE_SIZE_MAX = 32768

/** [VIRTIO] 2.7.2 and 4.1.5.1.3.1: legacy rings start, and their used ring starts, on a multiple of this. */
export const LEGACY_QUEUE_ALIGN = 4096

/** [VIRTIO] 4.1.4: cfg_type of a virtio structure capability. */
export const VIRTIO_PCI_CAP = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI_CFG: 5, SHARED_MEMORY: 8, VENDOR: 9 } as const

/** [VIRTIO] 4.1.4: struct virtio_pci_cap and what follows it. Byte offsets. */
export const CAP_FIELD = {
  LENGTH_OF_CAP: 2, TYPE: 3, BAR: 4, ID: 5, OFFSET: 8, LENGTH: 12, NOTIFY_MULTIPLIER: 16, PCI_CFG_DATA: 16,
} as const

/** [VIRTIO] 4.1.4.3: struct virtio_pci_common_cfg. Byte offsets. */
export const COMMON = {
  DEVICE_FEATURE_SELECT: 0x00,
  DEVICE_FEATURE: 0x04,
  DRIVER_FEATURE_SELECT: 0x08,
  DRIVER_FEATURE: 0x0c,
  CONFIG_MSIX_VECTOR: 0x10,
  NUM_QUEUES: 0x12,
  DEVICE_STATUS: 0x14,
  CONFIG_GENERATION: 0x15,
  QUEUE_SELECT: 0x16,
  QUEUE_SIZE: 0x18,
  QUEUE_MSIX_VECTOR: 0x1a,
  QUEUE_ENABLE: 0x1c,
  QUEUE_NOTIFY_OFF: 0x1e,
  QUEUE_DESC: 0x20,
  QUEUE_DRIVER: 0x28,
  QUEUE_DEVICE: 0x30,
  QUEUE_NOTIF_CONFIG_DATA: 0x38,
  QUEUE_RESET: 0x3a,
} as const

/** [VIRTIO] 4.1.4.10: legacy header in BAR0. Byte offsets. */
export const LEGACY = {
  DEVICE_FEATURES: 0x00,
  DRIVER_FEATURES: 0x04,
  QUEUE_ADDRESS: 0x08,
  QUEUE_SIZE: 0x0c,
  QUEUE_SELECT: 0x0e,
  QUEUE_NOTIFY: 0x10,
  DEVICE_STATUS: 0x12,
  ISR_STATUS: 0x13,
  CONFIG_MSIX_VECTOR: 0x14,
  QUEUE_MSIX_VECTOR: 0x16,
  /** Where the device configuration starts while MSI-X is disabled, and while it is enabled. */
  DEVICE_CONFIG: 0x14,
  DEVICE_CONFIG_MSIX: 0x18,
} as const

/** [VIRTIO] 4.1.4.5: ISR status. Masks. */
export const ISR = { QUEUE: 0x1, CONFIGURATION: 0x2 } as const

/** [VIRTIO] 4.1.5.1.2: "not mapped to any vector". */
export const NO_VECTOR = 0xffff
