/**
 * Constants of [VIRTIO] that do not belong to one device type, one object for each table, in its spelling. test/spec/README.md names
 * the revision of [VIRTIO] and of every other source that comments cite.
 */

/** [VIRTIO] 2.1 "Device Status Field". */
export const DEVICE_STATUS = {
  ACKNOWLEDGE: 0x01, DRIVER: 0x02, DRIVER_OK: 0x04, FEATURES_OK: 0x08, SUSPEND: 0x10, DEVICE_NEEDS_RESET: 0x40, FAILED: 0x80,
} as const

/** [VIRTIO] 6 "Reserved Feature Bits" and 6.3 "Legacy Interface: Reserved Feature Bits": bit numbers. */
export const VIRTIO_F = {
  NOTIFY_ON_EMPTY: 24,
  ANY_LAYOUT: 27,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  NOTIFICATION_DATA: 38,
  NOTIF_CONFIG_DATA: 39,
  RING_RESET: 40,
  SUSPEND: 43,
} as const

/** Bits only for drivers without VERSION_1, which the modern registers do not show. */
export const LEGACY_ONLY_FEATURES: bigint = featureMask([VIRTIO_F.NOTIFY_ON_EMPTY, VIRTIO_F.ANY_LAYOUT])

/** [VIRTIO] 2.7.5 "The Virtqueue Descriptor Table". */
export const VIRTQ_DESC_F = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const

/** [VIRTIO] 2.7.6 "The Virtqueue Available Ring". */
export const VIRTQ_AVAIL_F = { NO_INTERRUPT: 1 } as const

/** Bytes of one descriptor: le64 address, le32 length, le16 flags, le16 next. */
export const VIRTQ_DESC_SIZE = 16
/** Byte offset of `ring` in the available and in the used ring, behind le16 flags and le16 idx. */
export const VIRTQ_RING_OFFSET = 4
/** Bytes of one element of the available ring: le16 head. */
export const VIRTQ_AVAIL_ELEM_SIZE = 2
/** Bytes of one element of the used ring: le32 id, le32 len. */
export const VIRTQ_USED_ELEM_SIZE = 8
/** Bytes of the event index behind each ring: le16 used_event or avail_event. */
export const VIRTQ_EVENT_SIZE = 2
/** [VIRTIO] 2.8 "Packed Virtqueues": flags of a descriptor that tell who has it, beside those of VIRTQ_DESC_F; and both of them. */
export const PVIRTQ_DESC_F = { AVAIL: 0x0080, USED: 0x8000, MARKS: 0x8080 } as const

/** [VIRTIO] 2.8.14 "Event Suppression Structure Format": le16 offset of the descriptor and wrap counter, le16 flags. */
export const PVIRTQ_EVENT = { desc: 0, flags: 2, SIZE: 4 } as const

/** [VIRTIO] 2.8.10: values of the flags of an event suppression structure. The other bits are reserved. */
export const RING_EVENT_FLAGS = { ENABLE: 0, DISABLE: 1, DESC: 2, MASK: 3 } as const

/** [VIRTIO] 2.7: "The maximum Queue Size value is 32768." */
export const VIRTQ_MAX_SIZE = 32768

/** Bytes of an available ring of `size` elements, with the event index even if it is unused. */
export function availRingSize(size: number): number {
  return VIRTQ_RING_OFFSET + VIRTQ_AVAIL_ELEM_SIZE * size + VIRTQ_EVENT_SIZE
}

/** Bytes of a used ring of `size` elements, with the event index even if it is unused. */
export function usedRingSize(size: number): number {
  return VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * size + VIRTQ_EVENT_SIZE
}

/** Whether `bit` is set in a 64-bit feature word. */
export function hasBit(features: bigint, bit: number): boolean {
  return ((features >> BigInt(bit)) & 1n) !== 0n
}

/** The 64-bit feature word with the given bits set. */
export function featureMask(bits: readonly number[]): bigint {
  let mask = 0n
  for (const bit of bits) mask |= 1n << BigInt(bit)
  return mask
}
