/**
 * The firmware's part for a PCI function: it assigns addresses to the BARs, writes the interrupt line, and turns decoding on. It uses only
 * configuration accesses, and the guest may change everything later.
 */
import { PCI_SLOTS, type PciBus } from "../pci/bus.ts"
import { PCI_COMMAND, PCI_CONFIG } from "../pci/config-space.ts"
import type { BarDefinition } from "../pci/function.ts"
import { type AddressWindow, IO_WINDOW, MMIO32_WINDOW, MMIO64_WINDOW } from "./memory-map.ts"

/** Memory BARs begin on a page, so that a guest can give them to different owners. */
const PAGE_SIZE = 4096

/** The place of a function on bus 0. */
export interface PciPlace {
  readonly slot: number
  readonly functionNumber: number
}

/**
 * Places the BARs of the function at `at`, writes its interrupt line and turns I/O and memory decoding on. Bus mastering is left
 * to the driver.
 */
export function assignResources(bus: PciBus, at: PciPlace, line: number): void {
  const { slot, functionNumber } = at
  const bars = bus.function(slot, functionNumber)?.bars ?? []
  // Largest first, for fewer alignment gaps.
  for (const bar of [...bars].sort((a, b) => b.size - a.size)) {
    writeAddress(bus, at, bar, place(bar, addressesInUse(bus, bar.kind === "io" ? "io" : "memory")))
  }
  bus.configWrite(0, slot, functionNumber, PCI_CONFIG.INTERRUPT_LINE, 1, line)
  bus.configWrite(0, slot, functionNumber, PCI_CONFIG.COMMAND, 2, PCI_COMMAND.IO_SPACE | PCI_COMMAND.MEMORY_SPACE)
}

function place(bar: BarDefinition, inUse: readonly AddressWindow[]): number {
  const windows = bar.kind === "io" ? [IO_WINDOW] : bar.kind === "memory32" ? [MMIO32_WINDOW] : [MMIO32_WINDOW, MMIO64_WINDOW]
  const alignment = bar.kind === "io" ? bar.size : Math.max(bar.size, PAGE_SIZE)
  for (const window of windows) {
    const address = firstFit(window, bar.size, alignment, inUse)
    if (address !== undefined) return address
  }
  throw new RangeError(`no room for BAR ${bar.index}, ${bar.size} bytes of ${bar.kind === "io" ? "I/O" : "memory"} space; unplug something`)
}

/** The lowest aligned address in `window` with `size` free bytes. `inUse` is in ascending order. */
function firstFit(window: AddressWindow, size: number, alignment: number, inUse: readonly AddressWindow[]): number | undefined {
  let address = alignUp(window.start, alignment)
  for (const used of inUse) if (used.start < address + size && used.end > address) address = alignUp(used.end, alignment)
  return address + size <= window.end ? address : undefined
}

/** The addresses in all BAR registers on the bus, decoded or not, in ascending order. */
function addressesInUse(bus: PciBus, space: "io" | "memory"): readonly AddressWindow[] {
  const inUse: AddressWindow[] = []
  for (let slot = 0; slot < PCI_SLOTS; slot++) {
    for (const [functionNumber, fn] of bus.functions(slot)) {
      for (const bar of fn.bars) {
        if ((bar.kind === "io") !== (space === "io")) continue
        const start = readAddress(bus, { slot, functionNumber }, bar)
        if (start !== 0) inUse.push({ start, end: start + bar.size })
      }
    }
  }
  return inUse.sort((a, b) => a.start - b.start)
}

function readAddress(bus: PciBus, { slot, functionNumber }: PciPlace, bar: BarDefinition): number {
  const offset = PCI_CONFIG.BASE_ADDRESS_0 + 4 * bar.index
  const low = bus.configRead(0, slot, functionNumber, offset, 4)
  const high = bar.kind === "memory64" ? bus.configRead(0, slot, functionNumber, offset + 4, 4) : 0
  return high * 2 ** 32 + low - (low % (bar.kind === "io" ? 4 : 16))
}

function writeAddress(bus: PciBus, { slot, functionNumber }: PciPlace, bar: BarDefinition, address: number): void {
  const offset = PCI_CONFIG.BASE_ADDRESS_0 + 4 * bar.index
  bus.configWrite(0, slot, functionNumber, offset, 4, address % 2 ** 32)
  if (bar.kind === "memory64") bus.configWrite(0, slot, functionNumber, offset + 4, 4, Math.floor(address / 2 ** 32))
}

function alignUp(address: number, alignment: number): number {
  return Math.ceil(address / alignment) * alignment
}
