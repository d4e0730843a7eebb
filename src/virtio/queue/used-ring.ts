/** Announces the bytes of a ring that the device has stored to a memory that tracks writes (`GuestMemory.written`). */
import type { GuestMemory } from "../guest-memory.ts"
import { VIRTQ_DESC_SIZE, VIRTQ_RING_OFFSET, VIRTQ_USED_ELEM_SIZE } from "../spec.ts"
import type { QueueAreas } from "./ring.ts"

/** Announces the used elements from index `old` to before `now`, and flags and index in front of them, but not avail_event. */
export function announceUsed(memory: GuestMemory, { size, usedRing }: QueueAreas, old: number, now: number): void {
  if (memory.written === undefined) return
  const first = old & (size - 1)
  const count = Math.min((now - old) & 0xffff, size)
  const wrapped = Math.max(first + count - size, 0)
  memory.written(usedRing, VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * wrapped)
  memory.written(usedRing + VIRTQ_RING_OFFSET + VIRTQ_USED_ELEM_SIZE * first, VIRTQ_USED_ELEM_SIZE * (count - wrapped))
}

/** Announces the changed part of a packed ring: the last `passed` descriptors before slot `end`. */
export function announceUsedSlots(memory: GuestMemory, { descriptorTable, size }: QueueAreas, end: number, passed: number): void {
  const start = end - Math.min(passed, size)
  if (start < 0) memory.written?.(descriptorTable + VIRTQ_DESC_SIZE * (start + size), VIRTQ_DESC_SIZE * -start)
  const first = Math.max(start, 0)
  if (end > 0) memory.written?.(descriptorTable + VIRTQ_DESC_SIZE * first, VIRTQ_DESC_SIZE * (end - first))
}
