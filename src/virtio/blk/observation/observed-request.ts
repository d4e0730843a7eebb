/** ObservedRequest: what a block device tells its observer of a request. */
import type { RequestKind } from "../statistics.ts"

/** A request that has been completed, as an `observer` is told of it. */
export interface ObservedRequest {
  /** Index of the queue that it came from. */
  readonly queue: number
  readonly kind: RequestKind
  /** The type in its header: of kind "unknown", what the guest asked for. */
  readonly type: number
  /** The first sector of 512 bytes: of a discard or a writing of zeroes, that of its first segment. */
  readonly sector: number
  /** Bytes of data, or of the disk that were to be discarded or zeroed. */
  readonly bytes: number
  /** The status that the guest was given ([VIRTIO] 5.2.6): 0 OK, 1 IOERR, 2 UNSUPP. */
  readonly status: number
  /** When the device took it from its ring, and when it completed it: milliseconds of `performance.now()`. */
  readonly arrived: number
  readonly completed: number
}
