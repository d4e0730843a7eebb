/** The choices for a request that the disk fails. */
import type { BackingError } from "../../../backing/backing.ts"
import type { RequestKind } from "../statistics.ts"

/**
 * "report": the guest gets IOERR. "ignore": the guest gets OK, and zeroes for data that could not be read. "stop": the disk stops and keeps
 * the request.
 */
export type ReadErrorPolicy = "report" | "ignore" | "stop"

/** The same for changes of the disk, and for flushes. "enospc": stops if there is no space, and reports any other error. */
export type WriteErrorPolicy = ReadErrorPolicy | "enospc"

export const READ_ERROR_POLICIES: readonly ReadErrorPolicy[] = ["report", "ignore", "stop"]
export const WRITE_ERROR_POLICIES: readonly WriteErrorPolicy[] = ["report", "ignore", "stop", "enospc"]

/** Why a disk has stopped: the request that failed first, and its error. */
export interface DiskStop {
  readonly error: BackingError
  readonly kind: RequestKind
  /** The type in its header. */
  readonly type: number
  /** Its first sector of 512 bytes, and bytes of data or of the disk. */
  readonly sector: number
  readonly bytes: number
}
