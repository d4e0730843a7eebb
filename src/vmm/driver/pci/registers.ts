/**
 * Registers: one way to reach a block of device registers, be it behind I/O ports, in memory space, or through the window that
 * virtio puts into PCI configuration space.
 */
import type { Platform, Width } from "../platform.ts"

/** A block of registers. Offsets are bytes from its start. */
export interface Registers {
  read(offset: number, width: Width): number
  write(offset: number, width: Width, value: number): void
}

/** Registers in I/O space. */
export class PortRegisters implements Registers {
  readonly #platform: Platform
  readonly #base: number

  constructor(platform: Platform, base: number) {
    this.#platform = platform
    this.#base = base
  }

  read(offset: number, width: Width): number {
    return this.#platform.portRead(this.#base + offset, width)
  }

  write(offset: number, width: Width, value: number): void {
    this.#platform.portWrite(this.#base + offset, width, value)
  }
}

/** Registers in memory space. */
export class MemoryRegisters implements Registers {
  readonly #platform: Platform
  readonly #base: number

  constructor(platform: Platform, base: number) {
    this.#platform = platform
    this.#base = base
  }

  read(offset: number, width: Width): number {
    return this.#platform.mmioRead(this.#base + offset, width)
  }

  write(offset: number, width: Width, value: number): void {
    this.#platform.mmioWrite(this.#base + offset, width, value)
  }
}
