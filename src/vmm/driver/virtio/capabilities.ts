/**
 * The virtio structures that a PCI function announces in its capability list. [VIRTIO] 4.1.4.
 */
import type { PciDevice } from "../pci/device.ts"
import { PCI_BAR, PCI_CAPABILITY } from "../pci/spec.ts"
import { CAP_FIELD, VIRTIO_PCI_CAP } from "./spec.ts"

/** One struct virtio_pci_cap. */
export interface VirtioCapability {
  /** cfg_type, one of `VIRTIO_PCI_CAP`. */
  readonly type: number
  readonly bar: number
  readonly id: number
  /** Where the structure starts in its BAR. Bytes. */
  readonly offset: number
  /** Bytes; may be more than the structure needs. */
  readonly length: number
  /** cap_len */
  readonly capabilityLength: number
  /** Where the capability itself is in configuration space. */
  readonly at: number
}

const KNOWN_TYPES: readonly number[] = Object.values(VIRTIO_PCI_CAP)

/** All virtio structures in the device's order of preference. Reserved types and BAR numbers are ignored, as a driver must. */
export function virtioCapabilities(device: PciDevice): VirtioCapability[] {
  return device
    .capabilities()
    .filter((capability) => capability.id === PCI_CAPABILITY.VENDOR)
    .map(({ offset: at }) => ({
      type: device.read8(at + CAP_FIELD.TYPE),
      bar: device.read8(at + CAP_FIELD.BAR),
      id: device.read8(at + CAP_FIELD.ID),
      offset: device.read32(at + CAP_FIELD.OFFSET),
      length: device.read32(at + CAP_FIELD.LENGTH),
      capabilityLength: device.read8(at + CAP_FIELD.LENGTH_OF_CAP),
      at,
    }))
    .filter((capability) => KNOWN_TYPES.includes(capability.type) && isUsableBar(capability))
}

/** The driver itself writes bar, offset and length of the window; vendor data has other fields there. */
function isUsableBar(capability: VirtioCapability): boolean {
  return capability.type === VIRTIO_PCI_CAP.PCI_CFG || capability.type === VIRTIO_PCI_CAP.VENDOR || capability.bar < PCI_BAR.COUNT
}
