/**
 * A placeholder for a virtio-mmio device that is absent ([VIRTIO] 4.2.2, DeviceID 0). A driver that probes it finds no device, and reports
 * no error.
 */
import { MAGIC_VALUE, VIRTIO_MMIO } from "./spec.ts"

/** The value of a read of `width` bytes (1, 2 or 4) at byte `offset`. Writes have no effect. */
export function readMmioPlaceholder(offset: number, width: 1 | 2 | 4): number {
  if (width !== 4) return 0
  return offset === VIRTIO_MMIO.MagicValue ? MAGIC_VALUE : offset === VIRTIO_MMIO.Version ? 2 : 0
}
