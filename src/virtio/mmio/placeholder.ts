/**
 * A placeholder: a place of a machine's map where a virtio-mmio device may be, and is not ([VIRTIO] 4.2.2, DeviceID). A driver that looks
 * there goes away and reports no error.
 */
import { MAGIC_VALUE, VIRTIO_MMIO } from "./spec.ts"

/** What a guest reads there: `width` bytes (1, 2 or 4) at byte `offset`. Whatever it writes has no effect. */
export function readMmioPlaceholder(offset: number, width: 1 | 2 | 4): number {
  if (width !== 4) return 0
  return offset === VIRTIO_MMIO.MagicValue ? MAGIC_VALUE : offset === VIRTIO_MMIO.Version ? 2 : 0
}
