/** The segments of a buffer that a driver puts into a ring of either kind, and the rules for them. */
import { DESCRIPTOR_FLAG } from "../spec.ts"

/** [VIRTIO] 2.7.5.2: a chain describes at most 2^32 bytes. */
const CHAIN_BYTES_MAX = 2 ** 32

/** One element of a buffer: a stretch of guest RAM that the device reads or writes. */
export interface Segment {
  readonly address: number
  /** Bytes. */
  readonly length: number
  /** Device-writable. All readable segments come first ([VIRTIO] 2.7.4.2). */
  readonly writable: boolean
}

/** Where to put an indirect table. */
export interface IndirectTable {
  /** Guest-physical address of room for `segments - direct` descriptors. */
  readonly address: number
  /** Descriptors in the ring before the one that refers to the table. Default 0. */
  readonly direct?: number
}

/** Returns the number of bytes that the device may write. @throws RangeError for a buffer that a driver must not make */
export function checkSegments(segments: readonly Segment[], queueSize: number): number {
  if (segments.length === 0) throw new RangeError("a buffer has at least one segment")
  if (segments.length > queueSize) throw new RangeError(`a chain of ${segments.length} descriptors is longer than the queue (${queueSize})`)
  let total = 0
  let writable = 0
  let isPastReadable = false
  for (const segment of segments) {
    if (segment.writable) {
      isPastReadable = true
      writable += segment.length
    } else if (isPastReadable) throw new RangeError("a device-readable segment follows a device-writable one")
    total += segment.length
  }
  if (total > CHAIN_BYTES_MAX) throw new RangeError(`a chain describes at most 2^32 bytes, not ${total}`)
  return writable
}

/** The flags of a descriptor for `segment`, less NEXT. */
export function flagsOf(segment: Segment): number {
  return segment.writable ? DESCRIPTOR_FLAG.WRITE : 0
}
