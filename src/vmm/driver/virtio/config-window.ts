/**
 * WindowRegisters: device registers reached through the virtio PCI configuration access capability, for a guest (firmware, say)
 * that cannot use the BAR itself. [VIRTIO] 4.1.4.9.
 */
import type { PciDevice } from "../pci/device.ts"
import type { Width } from "../platform.ts"
import type { Registers } from "../pci/registers.ts"
import { CAP_FIELD } from "./spec.ts"

export interface WindowOptions {
  /** Where the capability of type VIRTIO_PCI_CAP_PCI_CFG is in configuration space. */
  readonly at: number
  readonly bar: number
  /** Where the registers start in the BAR. */
  readonly offset: number
}

/** Registers behind the window. */
export class WindowRegisters implements Registers {
  readonly #device: PciDevice
  readonly #options: WindowOptions

  constructor(device: PciDevice, options: WindowOptions) {
    this.#device = device
    this.#options = options
  }

  read(offset: number, width: Width): number {
    this.#aim(offset, width)
    return this.#device.config.read(this.#device.address, this.#options.at + CAP_FIELD.PCI_CFG_DATA, width)
  }

  write(offset: number, width: Width, value: number): void {
    this.#aim(offset, width)
    this.#device.config.write(this.#device.address, this.#options.at + CAP_FIELD.PCI_CFG_DATA, width, value)
  }

  #aim(offset: number, width: Width): void {
    const { at, bar } = this.#options
    this.#device.write8(at + CAP_FIELD.BAR, bar)
    this.#device.write32(at + CAP_FIELD.OFFSET, this.#options.offset + offset)
    this.#device.write32(at + CAP_FIELD.LENGTH, width)
  }
}
