/** ObservedRequest: a completed request, for an observer. */
import type { RequestKind } from "../statistics.ts"

/** A completed request, as an `observer` gets it. */
export interface ObservedRequest {
  /** Index of the queue that it came from. */
  readonly queue: number
  readonly kind: RequestKind
  /** The type in its header, even if it is unknown. */
  readonly type: number
  /** The first sector of 512 bytes; of a DISCARD or WRITE_ZEROES, the one of its first segment. */
  readonly sector: number
  /** Bytes of data, or bytes of the disk to discard or zero. */
  readonly bytes: number
  /** The status that the guest was given ([VIRTIO] 5.2.6): 0 OK, 1 IOERR, 2 UNSUPP. */
  readonly status: number
  /** When the device took it from its ring, and when it completed it: milliseconds of `performance.now()`. */
  readonly arrived: number
  readonly completed: number
}
