/**
 * HostBridge: the function in slot 0, by which a guest detects the PCI bus: an Intel Q35 (82G33) host bridge without settings.
 */
import { type AccessWidth, allOnes } from "../pci/access.ts"
import { PciFunction } from "../pci/function.ts"
import { ECAM_WINDOW } from "./memory-map.ts"

/** Register PCIEXBAR of the 82G33: the base of the ECAM in bits 35-28, length 256 MiB in bits 2-1 (0), enabled by bit 0. */
const PCIEXBAR = 0x60
const PCIEXBAR_ENABLE = 1

export class HostBridge extends PciFunction {
  constructor() {
    super({
      vendorId: 0x8086,
      deviceId: 0x29c0,
      revision: 0,
      classCode: 0x06_0000,
      subsystemVendorId: 0x1af4,
      subsystemId: 0x1100,
      bars: [],
      interruptPin: 0,
      interrupts: { intx: () => {}, message: () => {} },
    })
    // Read-only: this machine's ECAM has a fixed address.
    this.defineRegister(PCIEXBAR, 4, ECAM_WINDOW.start + PCIEXBAR_ENABLE)
  }

  protected override readBar(_index: number, _offset: number, width: AccessWidth): number {
    return allOnes(width)
  }

  protected override writeBar(): void {}
}
