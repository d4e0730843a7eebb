/** The choices of what becomes of a request that the disk fails. */
import type { BackingError } from "../../../backing/backing.ts"
import type { RequestKind } from "../statistics.ts"

/**
 * "report": the guest is told (IOERR). "ignore": the guest is told that all is well; what could not be read is zeroes. "stop": the disk
 * stops and keeps the request.
 */
export type ReadErrorPolicy = "report" | "ignore" | "stop"

/** The same for all that changes the disk, and for flushes. "enospc": stops where there is no space, and reports anything else. */
export type WriteErrorPolicy = ReadErrorPolicy | "enospc"

export const READ_ERROR_POLICIES: readonly ReadErrorPolicy[] = ["report", "ignore", "stop"]
export const WRITE_ERROR_POLICIES: readonly WriteErrorPolicy[] = ["report", "ignore", "stop", "enospc"]

/** Why a disk has stopped: the request that failed first, and what it failed with. */
export interface DiskStop {
  readonly error: BackingError
  readonly kind: RequestKind
  /** The type in its header. */
  readonly type: number
  /** Its first sector of 512 bytes, and bytes of data or of the disk. */
  readonly sector: number
  readonly bytes: number
}
