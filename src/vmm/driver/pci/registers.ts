/**
 * Registers: one way to reach a block of device registers, be it in I/O space, in memory space, or through the window that virtio puts
 * into PCI configuration space.
 */
import type { Platform, Width } from "../platform.ts"

/** A block of registers. Offsets are bytes from its start. */
export interface Registers {
  read(offset: number, width: Width): number
  write(offset: number, width: Width, value: number): void
}

/** The registers at `base`: a port, or a guest-physical address. */
export function registersAt(platform: Platform, { space, base }: { readonly space: "io" | "memory"; readonly base: number }): Registers {
  if (space === "io") {
    return {
      read: (offset, width) => platform.portRead(base + offset, width),
      write: (offset, width, value) => platform.portWrite(base + offset, width, value),
    }
  }
  return {
    read: (offset, width) => platform.mmioRead(base + offset, width),
    write: (offset, width, value) => platform.mmioWrite(base + offset, width, value),
  }
}
