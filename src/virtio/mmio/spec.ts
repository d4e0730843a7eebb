/** Constants of virtio over MMIO ([VIRTIO] 4.2), in its spelling. */
import { featureMask } from "../spec.ts"

/** [VIRTIO] 4.2.2, and 4.2.4 for the registers of version 1: byte offsets. */
export const VIRTIO_MMIO = {
  MagicValue: 0x000,
  Version: 0x004,
  DeviceID: 0x008,
  VendorID: 0x00c,
  DeviceFeatures: 0x010,
  DeviceFeaturesSel: 0x014,
  DriverFeatures: 0x020,
  DriverFeaturesSel: 0x024,
  /** Version 1. */
  GuestPageSize: 0x028,
  QueueSel: 0x030,
  QueueSizeMax: 0x034,
  QueueSize: 0x038,
  /** Version 1. */
  QueueAlign: 0x03c,
  /** Version 1. */
  QueuePFN: 0x040,
  QueueReady: 0x044,
  QueueNotify: 0x050,
  InterruptStatus: 0x060,
  InterruptACK: 0x064,
  Status: 0x070,
  QueueDescLow: 0x080,
  QueueDriverLow: 0x090,
  QueueDeviceLow: 0x0a0,
  SHMLenLow: 0x0b0,
  SHMLenHigh: 0x0b4,
  SHMBaseLow: 0x0b8,
  SHMBaseHigh: 0x0bc,
  QueueReset: 0x0c0,
  ConfigGeneration: 0x0fc,
  Config: 0x100,
} as const

/** "virt", little-endian. */
export const MAGIC_VALUE = 0x7472_6976
/** "QEMU", little-endian. The specification gives the register no meaning; drivers that read it (FreeBSD logs it) know this value. */
export const VENDOR_ID = 0x554d_4551

/** [VIRTIO] 4.2.5 and 6: SR_IOV, NOTIF_CONFIG_DATA and ADMIN_VQ are for PCI alone. */
export const PCI_FEATURES: bigint = featureMask([37, 39, 41])

/** [VIRTIO] 4.2.2, InterruptStatus. */
export const INTERRUPT = { USED_BUFFER: 1, CONFIG_CHANGE: 2 } as const
