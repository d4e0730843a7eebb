/** RingCursor: a place in a packed ring, with the wrap counter there ([VIRTIO] 2.8.1). */
import { PACKED_FLAG } from "../spec.ts"

export class RingCursor {
  readonly size: number
  slot = 0
  /** The wrap counter is 1. */
  wrap = true

  constructor(size: number) {
    this.size = size
  }

  /** Goes on by up to `size` slots. */
  advance(slots: number): void {
    this.slot += slots
    if (this.slot < this.size) return
    this.slot -= this.size
    this.wrap = !this.wrap
  }

  /** The mark of an available descriptor here. */
  get available(): number {
    return this.wrap ? PACKED_FLAG.AVAIL : PACKED_FLAG.USED
  }

  /** The slot in bits 0 to 14 and the wrap counter in bit 15, as event suppression and notifications have it. */
  get word(): number {
    return this.slot + (this.wrap ? 0x8000 : 0)
  }
}

/**
 * Whether the `passed` slots in front of `cursor` have the one that `event` names, as `RingCursor.word`: counted in slots from the
 * beginning of the lap before the cursor's.
 */
export function slotPassed(event: number, cursor: RingCursor, passed: number): boolean {
  const { size, slot, wrap } = cursor
  const now = size + slot
  const place = (event & 0x7fff) + ((event >= 0x8000) === wrap ? size : 0)
  return place < now && place >= now - passed
}
