/** The costs of requests: time, in the unit of a `Turn` (bytes moved, or other work of the same duration), and memory while they wait. */
import { LOOK_WEIGHT, type Turn } from "../turn.ts"
import type { BlkRequest } from "./request.ts"
import { VIRTIO_BLK_T } from "./spec.ts"

const { IN, OUT, FLUSH } = VIRTIO_BLK_T

/** A small request: the clock is read after 32 of them. */
export const REQUEST_WEIGHT = LOOK_WEIGHT / 32
/** Reading a descriptor: 30 ns (measured). */
export const DESCRIPTOR_WEIGHT = LOOK_WEIGHT / 4096
/** A flush: little work for the processor, but a wait for the disk. */
export const FLUSH_WEIGHT = LOOK_WEIGHT / 4
/** A byte of a zone report: 6 ns (measured). */
const ANSWER_WEIGHT = 16
/** A call that discards or zeroes so many bytes may start a program of the host, so the clock is read after each. */
const LONG_RANGE = 1 << 20

/** Counts a call for the group of `leader`. `slow`: the clock is read after it, even if it is small. */
export function spend(turn: Turn, leader: BlkRequest, slow: boolean): void {
  const { type, slice } = leader
  if (type === IN || type === OUT) turn.spend(slow ? LOOK_WEIGHT : slice > REQUEST_WEIGHT ? slice : REQUEST_WEIGHT, slice)
  else if (type === FLUSH) turn.spend(FLUSH_WEIGHT, 0)
  else turn.spend(slice >= LONG_RANGE ? LOOK_WEIGHT : Math.max(REQUEST_WEIGHT, ANSWER_WEIGHT * (leader.answer?.length ?? 0)), 0)
}

/** Counts a call that answers later. For a write, the data have been copied. */
export function spendLater(turn: Turn, { type, slice }: BlkRequest): void {
  turn.spend(type === OUT && slice > REQUEST_WEIGHT ? slice : REQUEST_WEIGHT, 0)
}

/** Approximate bytes of a waiting request, and of one of its segments: objects, arrays and promises. */
const REQUEST_BYTES = 1024
const SEGMENT_BYTES = 12

/** Bytes of memory that requests hold while they wait for one call. The first of them has the buffer. */
export function heldBytes(requests: readonly BlkRequest[]): number {
  const segments = requests.reduce((sum, { count }) => sum + count, 0)
  return REQUEST_BYTES * requests.length + SEGMENT_BYTES * segments + (requests[0]?.own?.length ?? 0)
}
