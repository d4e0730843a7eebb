/** PciBusDevice: a virtio function on PCI, for the driver: which interface, its BARs, its interrupts. [VIRTIO] 4.1. */
import { DriverError } from "../errors.ts"
import type { PciDevice } from "../pci/device.ts"
import type { MsixTable } from "../pci/msix.ts"
import { PCI_COMMAND } from "../pci/spec.ts"
import type { Platform } from "../platform.ts"
import type { VirtioBus } from "./bus.ts"
import { virtioCapabilities } from "./capabilities.ts"
import { LegacyDriverTransport } from "./legacy-transport.ts"
import { ModernDriverTransport } from "./modern-transport.ts"
import { VIRTIO_PCI_CAP, VIRTIO_PCI_ID } from "./spec.ts"
import type { DriverTransport } from "./transport.ts"

export interface TransportOptions {
  /** Which interface to use. Default: modern where the device has it. PCI only. */
  readonly transport?: "modern" | "legacy"
  /** How to reach a modern device's registers: through its BARs (default), or through the window in configuration space. PCI only. */
  readonly access?: "bar" | "window"
}

export class PciBusDevice implements VirtioBus {
  readonly pci: PciDevice
  readonly #options: TransportOptions
  /** Where the BARs were when the transport was opened. */
  #bars = ""

  /** @throws DriverError ("no-device") when it is not a virtio function */
  constructor(pci: PciDevice, options: TransportOptions) {
    if (pci.vendorId !== VIRTIO_PCI_ID.VENDOR) throw new DriverError("no-device", `${pci.name}: there is no virtio device`)
    this.pci = pci
    this.#options = options
  }

  get platform(): Platform {
    return this.pci.platform
  }

  get name(): string {
    return this.pci.name
  }

  get interruptLine(): number | undefined {
    return this.pci.interruptLine
  }

  /** @throws DriverError ("unsupported") when the device does not have the interface */
  open(): DriverTransport {
    // After a reset of the machine decoding is off, and the BARs may be elsewhere.
    this.pci.enable()
    const transport = this.#openTransport()
    this.#bars = this.#barsNow
    return transport
  }

  isInPlace(): boolean {
    return this.#barsNow === this.#bars
  }

  close(): void {
    this.pci.changeCommand({ clear: PCI_COMMAND.BUS_MASTER })
  }

  msix(): MsixTable | undefined {
    return this.pci.msix()
  }

  switchLine(on: boolean): void {
    this.pci.changeCommand(on ? { clear: PCI_COMMAND.INTERRUPT_DISABLE } : { set: PCI_COMMAND.INTERRUPT_DISABLE })
  }

  #openTransport(): DriverTransport {
    const { pci } = this
    const { transport, access = "bar" } = this.#options
    const kind = transport ?? (virtioCapabilities(pci).some(({ type }) => type === VIRTIO_PCI_CAP.COMMON) ? "modern" : "legacy")
    return kind === "legacy" ? new LegacyDriverTransport(pci) : new ModernDriverTransport(pci, { access })
  }

  /** The addresses of the BARs, to compare. */
  get #barsNow(): string {
    return this.pci.bars().map(({ address }) => address).join()
  }
}
