/**
 * Constants of PCI that a driver needs, typed from [PCI] and [PCIe] (test/spec/README.md names their revisions) and not shared with the
 * device.
 */

/** Configuration mechanism #1, [PCI] 3.2.2.3.2. */
export const CONFIG_PORT = { ADDRESS: 0xcf8, DATA: 0xcfc } as const

/** Type 0 header, [PCI] 6.1 and 6.2. Byte offsets. */
export const PCI_HEADER = {
  VENDOR_ID: 0x00,
  DEVICE_ID: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION_ID: 0x08,
  CLASS_CODE: 0x09,
  HEADER_TYPE: 0x0e,
  BAR0: 0x10,
  SUBSYSTEM_VENDOR_ID: 0x2c,
  SUBSYSTEM_ID: 0x2e,
  CAPABILITIES_POINTER: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
} as const

/** Command register, [PCI] 6.2.2. Masks. */
export const PCI_COMMAND = { IO_SPACE: 0x0001, MEMORY_SPACE: 0x0002, BUS_MASTER: 0x0004, INTERRUPT_DISABLE: 0x0400 } as const

/** Status register, [PCI] 6.2.3. Masks. */
export const PCI_STATUS = { INTERRUPT: 0x0008, CAPABILITIES_LIST: 0x0010 } as const

/** Base address registers, [PCI] 6.2.5.1. Masks. */
export const PCI_BAR = {
  IO_SPACE: 0x1,
  IO_FLAGS: 0x3,
  MEMORY_TYPE: 0x6,
  MEMORY_TYPE_64: 0x4,
  PREFETCHABLE: 0x8,
  MEMORY_FLAGS: 0xf,
  COUNT: 6,
} as const

/** Capability ids, [PCI] appendix H. */
export const PCI_CAPABILITY = { VENDOR: 0x09, MSIX: 0x11 } as const

/** MSI-X capability and table, [PCI] 6.8.2.3 to 6.8.2.9. Byte offsets, and masks of its registers. */
export const MSIX = {
  MESSAGE_CONTROL: 2,
  TABLE: 4,
  PBA: 8,
  CONTROL_TABLE_SIZE: 0x07ff,
  CONTROL_FUNCTION_MASK: 0x4000,
  CONTROL_ENABLE: 0x8000,
  /** Lowest bits of the table and PBA registers: the BAR; the rest is the offset in it. */
  BIR: 0x7,
  ENTRY_SIZE: 16,
  ENTRY_ADDRESS: 0,
  ENTRY_ADDRESS_HIGH: 4,
  ENTRY_DATA: 8,
  ENTRY_CONTROL: 12,
  ENTRY_CONTROL_MASK: 0x1,
} as const
