/**
 * Where the three parts of a split virtqueue lie, their sizes and alignments: each in memory of its own (modern), or one after the other
 * in contiguous pages (legacy). [VIRTIO] 2.7 and 2.7.2.
 */
import { AVAILABLE, DESCRIPTOR, LEGACY_QUEUE_ALIGN, QUEUE_SIZE_MAX, USED } from "../spec.ts"

/** Guest-physical addresses of the parts of one virtqueue. */
export interface RingAddresses {
  /** Number of descriptors, at most 32768; of a split ring a power of two. */
  readonly queueSize: number
  /** Descriptor area. */
  readonly descriptorTable: number
  /** Driver area: of a packed ring, the driver's event suppression. */
  readonly availableRing: number
  /** Device area: of a packed ring, the device's event suppression. */
  readonly usedRing: number
}

/** [VIRTIO] 2.7: least alignment of the parts, in bytes. */
export const RING_ALIGNMENT = { DESCRIPTOR_TABLE: 16, AVAILABLE_RING: 2, USED_RING: 4 } as const

/** flags and idx before the ring, used_event or avail_event after it: counted whether EVENT_IDX is negotiated or not. */
const RING_EXTRA = 3 * 2

/** Bytes of the descriptor table. */
export function descriptorTableSize(queueSize: number): number {
  return DESCRIPTOR.SIZE * queueSize
}

/** Bytes of the available ring, used_event included. */
export function availableRingSize(queueSize: number): number {
  return RING_EXTRA + AVAILABLE.ENTRY_SIZE * queueSize
}

/** Bytes of the used ring, avail_event included. */
export function usedRingSize(queueSize: number): number {
  return RING_EXTRA + USED.ENTRY_SIZE * queueSize
}

/** Offset of the used ring in a legacy ring. Bytes. */
export function legacyUsedOffset(queueSize: number): number {
  return roundUp(descriptorTableSize(queueSize) + availableRingSize(queueSize), LEGACY_QUEUE_ALIGN)
}

/** Bytes of a whole legacy ring. The macro in [VIRTIO] 2.7.2 is right only when its argument is the alignment less one. */
export function legacyRingSize(queueSize: number): number {
  return legacyUsedOffset(queueSize) + roundUp(usedRingSize(queueSize), LEGACY_QUEUE_ALIGN)
}

/** The addresses of a legacy ring that starts at `base`, a multiple of 4096. */
export function legacyRingLayout(queueSize: number, base: number): RingAddresses {
  checkQueueSize(queueSize)
  if (base % LEGACY_QUEUE_ALIGN !== 0) throw new RangeError(`a legacy ring starts at a multiple of ${LEGACY_QUEUE_ALIGN}, not at ${base}`)
  return {
    queueSize,
    descriptorTable: base,
    availableRing: base + descriptorTableSize(queueSize),
    usedRing: base + legacyUsedOffset(queueSize),
  }
}

/** @throws RangeError unless `queueSize` is a power of two from 1 to 32768 */
export function checkQueueSize(queueSize: number): void {
  const isPowerOfTwo = Number.isInteger(queueSize) && queueSize > 0 && queueSize <= QUEUE_SIZE_MAX && (queueSize & (queueSize - 1)) === 0
  if (!isPowerOfTwo) throw new RangeError(`queue size ${queueSize} is not a power of two from 1 to ${QUEUE_SIZE_MAX}`)
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}
