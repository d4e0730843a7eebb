/** Finds the disks of a machine on its PCI bus. */
import { enumeratePci, type EnumerateOptions, type PciDevice } from "../pci/device.ts"
import type { Platform } from "../platform.ts"
import { VIRTIO_ID, VIRTIO_PCI_ID } from "../virtio/spec.ts"

/** All virtio block functions of a machine, in bus order. */
export function findBlockDevices(platform: Platform, options: EnumerateOptions = {}): PciDevice[] {
  return enumeratePci(platform, options).filter((device) => {
    const id = device.deviceId
    return device.vendorId === VIRTIO_PCI_ID.VENDOR &&
      (id === VIRTIO_PCI_ID.TRANSITIONAL_BLOCK || id === VIRTIO_PCI_ID.MODERN_BASE + VIRTIO_ID.BLOCK)
  })
}
