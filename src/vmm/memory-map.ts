/**
 * The address map of `Machine`: the end of RAM, and the windows for PCI. It is a simplified PC with a Q35 host bridge: RAM in one piece
 * from 0, everything else above it.
 */
import { ECAM_SIZE } from "../pci/bus.ts"

/** Addresses or ports from `start` up to, not including, `end`. */
export interface AddressWindow {
  readonly start: number
  readonly end: number
}

/** RAM starts at 0 and ends here at the latest: 3 GiB. */
export const MAX_RAM_SIZE = 0xc000_0000

/**
 * The enhanced configuration access mechanism: 4096 bytes for each function of 256 buses (there is only bus 0). Register PCIEXBAR of the
 * host bridge has its address.
 */
export const ECAM_WINDOW: AddressWindow = { start: MAX_RAM_SIZE, end: MAX_RAM_SIZE + ECAM_SIZE }

/** For memory BARs, and for 64-bit ones while there is room: every guest can access it. */
export const MMIO32_WINDOW: AddressWindow = { start: 0xd000_0000, end: 0xfeb0_0000 }

/** For the registers of virtio-mmio devices, as in QEMU's microvm. It ends at the I/O APIC. Registers win over a BAR in this window. */
export const VIRTIO_MMIO_WINDOW: AddressWindow = { start: MMIO32_WINDOW.end, end: 0xfec0_0000 }

/** For 64-bit memory BARs that do not fit below 4 GiB: 512 GiB to 1 TiB. */
export const MMIO64_WINDOW: AddressWindow = { start: 0x80_0000_0000, end: 0x100_0000_0000 }

/** For I/O BARs. */
export const IO_WINDOW: AddressWindow = { start: 0xc000, end: 0x1_0000 }

/** The interrupt lines of INTA#, for the slots in turn from slot 1 on, as the PIRQ router of a PIIX has them. */
const INTX_LINES = [10, 11, 5, 9] as const

/** The interrupt line of the pin of `slot`. */
export function interruptLine(slot: number): number {
  return INTX_LINES[(slot + INTX_LINES.length - 1) % INTX_LINES.length] ?? INTX_LINES[0]
}
