/** Which bytes of a used ring the device has stored, for who watches the guest's memory. */
import type { GuestMemory } from "../guest-memory.ts"
import { VIRTQ_RING_OFFSET, VIRTQ_USED_ELEM_SIZE } from "../spec.ts"
import type { QueueAreas } from "./ring.ts"

/** Tells `memory` of the used elements from index `old` to before `now`, and of what lies in front of them; avail_event apart. */
export function announceUsed(memory: GuestMemory, { size, usedRing }: QueueAreas, old: number, now: number): void {
  if (memory.written === undefined) return
  const first = old & (size - 1)
  const count = Math.min((now - old) & 0xffff, size)
  const wrapped = Math.max(first + count - size, 0)
  memory.written(usedRing, VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * wrapped)
  memory.written(usedRing + VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * first, VIRTQ_USED_ELEM_SIZE * (count - wrapped))
}
