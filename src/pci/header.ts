/** The type 0 header of a PCI function ([PCI] 6.2), without the BARs. */
import { type ConfigSpace, PCI_COMMAND, PCI_CONFIG, PCI_STATUS } from "./config-space.ts"

/** The fields of the header. */
export interface PciIdentity {
  readonly vendorId: number
  readonly deviceId: number
  readonly revision: number
  /** 24 bits: base class, sub-class, programming interface. */
  readonly classCode: number
  readonly subsystemVendorId: number
  readonly subsystemId: number
  /** 1: the function uses INTA#. 0: it has no pin. Default 1. */
  readonly interruptPin?: 0 | 1
}

/** Defines the registers of the header. Expansion ROM, cardbus pointer and self test do not exist and read 0. */
export function defineHeader(config: ConfigSpace, options: PciIdentity): void {
  config.define(PCI_CONFIG.VENDOR_ID, 2, options.vendorId)
  config.define(PCI_CONFIG.DEVICE_ID, 2, options.deviceId)
  const command = PCI_COMMAND.IO_SPACE | PCI_COMMAND.MEMORY_SPACE | PCI_COMMAND.BUS_MASTER | PCI_COMMAND.INTERRUPT_DISABLE
  // Parity and SERR reporting can be turned on; there is never an error to report.
  config.define(PCI_CONFIG.COMMAND, 2, 0, { writable: command | PCI_COMMAND.PARITY_ERROR_RESPONSE | PCI_COMMAND.SERR_ENABLE })
  const errors =
    PCI_STATUS.MASTER_DATA_PARITY_ERROR |
    PCI_STATUS.SIGNALED_TARGET_ABORT |
    PCI_STATUS.RECEIVED_TARGET_ABORT |
    PCI_STATUS.RECEIVED_MASTER_ABORT |
    PCI_STATUS.SIGNALED_SYSTEM_ERROR |
    PCI_STATUS.DETECTED_PARITY_ERROR
  config.define(PCI_CONFIG.STATUS, 2, 0, { clearedByOne: errors })
  config.define(PCI_CONFIG.REVISION_ID, 1, options.revision)
  config.define(PCI_CONFIG.CLASS_CODE, 1, options.classCode)
  config.define(PCI_CONFIG.CLASS_CODE + 1, 2, options.classCode >>> 8)
  config.define(PCI_CONFIG.CACHE_LINE_SIZE, 1, 0, { writable: 0xff })
  config.define(PCI_CONFIG.LATENCY_TIMER, 1, 0, { writable: 0xff })
  config.define(PCI_CONFIG.SUBSYSTEM_VENDOR_ID, 2, options.subsystemVendorId)
  config.define(PCI_CONFIG.SUBSYSTEM_ID, 2, options.subsystemId)
  config.define(PCI_CONFIG.INTERRUPT_LINE, 1, 0, { writable: 0xff })
  config.define(PCI_CONFIG.INTERRUPT_PIN, 1, options.interruptPin ?? 1)
}
