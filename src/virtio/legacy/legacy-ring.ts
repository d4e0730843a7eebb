/** The layout of a virtqueue that a legacy driver places by a page number, over PCI or over MMIO. */
import { availRingSize, VIRTQ_DESC_SIZE } from "../spec.ts"
import type { TransportedDevice } from "../transport.ts"

/** Alignment of the used ring over PCI, and over MMIO until the driver says otherwise: [VIRTIO] 2.7.2. */
export const LEGACY_ALIGN = 4096

/**
 * Places queue `index` at guest-physical `base`, all parts in one piece, and starts it. A running queue is stopped first. The layout
 * depends on the driver's queue size, and on `align`, the used ring's alignment in bytes, a power of two ([VIRTIO] 2.7.2).
 */
export function startLegacyQueue(device: TransportedDevice, index: number, place: { readonly base: number; readonly align: number }): void {
  const { base, align } = place
  const queue = device.queue(index)
  if (queue === undefined) return
  const availRing = base + VIRTQ_DESC_SIZE * queue.size
  queue.setArea("descriptorTable", base)
  queue.setArea("availRing", availRing)
  queue.setArea("usedRing", Math.ceil((availRing + availRingSize(queue.size)) / align) * align)
  queue.enable({ legacy: true })
}
