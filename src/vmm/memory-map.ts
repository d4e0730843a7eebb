/**
 * The address map of `Machine`: where RAM ends, and the windows that belong to PCI. It is that of a PC with a Q35 host bridge, made
 * simple: RAM in one piece from 0, everything else above it.
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
 * host bridge says so too.
 */
export const ECAM_WINDOW: AddressWindow = { start: MAX_RAM_SIZE, end: MAX_RAM_SIZE + ECAM_SIZE }

/** Where firmware places memory BARs, 64-bit ones too as long as there is room: every guest can reach it. */
export const MMIO32_WINDOW: AddressWindow = { start: 0xd000_0000, end: 0xfeb0_0000 }

/** The registers of virtio-mmio devices, where QEMU's microvm has them. It ends at the I/O APIC. A BAR here is behind them. */
export const VIRTIO_MMIO_WINDOW: AddressWindow = { start: MMIO32_WINDOW.end, end: 0xfec0_0000 }

/** Where firmware places 64-bit memory BARs that find no room below 4 GiB: 512 GiB to 1 TiB. */
export const MMIO64_WINDOW: AddressWindow = { start: 0x80_0000_0000, end: 0x100_0000_0000 }

/** Where firmware places I/O BARs. */
export const IO_WINDOW: AddressWindow = { start: 0xc000, end: 0x1_0000 }

/** The interrupt lines that INTA# of the slots is routed to, in turn from slot 1 on, as the PIRQ router of a PIIX does. */
const INTX_LINES = [10, 11, 5, 9] as const

/** The interrupt line of the pin of `slot`. */
export function interruptLine(slot: number): number {
  return INTX_LINES[(slot + INTX_LINES.length - 1) % INTX_LINES.length] ?? INTX_LINES[0]
}
