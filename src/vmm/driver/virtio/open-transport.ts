/** Opens the registers of a virtio function, through the interface that it has. */
import type { PciDevice } from "../pci/device.ts"
import { virtioCapabilities } from "./capabilities.ts"
import { LegacyDriverTransport } from "./legacy-transport.ts"
import { ModernDriverTransport } from "./modern-transport.ts"
import { VIRTIO_PCI_CAP } from "./spec.ts"
import type { DriverTransport } from "./transport.ts"

export interface TransportOptions {
  /** Which interface to use. Default: modern where the device has it. */
  readonly transport?: "modern" | "legacy"
  /** How to reach a modern device's registers: through its BARs (default), or through the window in configuration space. */
  readonly access?: "bar" | "window"
}

/** @throws DriverError ("unsupported") when the device does not have the interface */
export function openTransport(pci: PciDevice, options: TransportOptions): DriverTransport {
  const kind = options.transport ?? (virtioCapabilities(pci).some(({ type }) => type === VIRTIO_PCI_CAP.COMMON) ? "modern" : "legacy")
  return kind === "legacy" ? new LegacyDriverTransport(pci) : new ModernDriverTransport(pci, { access: options.access ?? "bar" })
}

/** The addresses of a export function's BARs, to compare. */
export function barsOf(pci: PciDevice): string {
  return pci.bars().map(({ address }) => address).join()
}
