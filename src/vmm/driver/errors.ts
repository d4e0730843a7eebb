/**
 * The errors of the driver. Errors that a caller may want to tell apart have a code; wrong arguments are plain `RangeError`s.
 */

/**
 * - `no-device`: there is no device, or it is not the one looked for
 * - `gone`: while the driver used it, the device was unplugged, or reset by somebody else (a machine reset); `reset()` starts it again
 * - `unsupported`: the device lacks what was asked of it, or the feature was not negotiated
 * - `features-refused`: FEATURES_OK did not stick
 * - `protocol`: the device broke a rule of the specification
 * - `needs-reset`: the device has set DEVICE_NEEDS_RESET; nothing works until `reset()`
 * - `reset`: the request was dropped because the driver reset or closed the device
 * - `timeout`: a register did not show what it must within the time allowed
 * - `no-memory`: the guest RAM given to the driver is used up
 */
export type DriverErrorCode =
  "no-device" | "gone" | "unsupported" | "features-refused" | "protocol" | "needs-reset" | "reset" | "timeout" | "no-memory"

/** The device, or the access to it, does not work. */
export class DriverError extends Error {
  override readonly name = "DriverError"
  readonly code: DriverErrorCode

  constructor(code: DriverErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

/** Why: the names of the statuses other than OK. Only zoned disks have those that begin with ZONE. */
export type BlockErrorStatus =
  "IOERR" | "UNSUPP" | "ZONE_INVALID_CMD" | "ZONE_UNALIGNED_WP" | "ZONE_OPEN_RESOURCE" | "ZONE_ACTIVE_RESOURCE"

const REASONS: Readonly<Record<BlockErrorStatus, string>> = {
  IOERR: "device or driver error",
  UNSUPP: "not supported by the device",
  ZONE_INVALID_CMD: "the zone cannot do that",
  ZONE_UNALIGNED_WP: "a zone is written at its write pointer, in whole units",
  ZONE_OPEN_RESOURCE: "too many zones are open",
  ZONE_ACTIVE_RESOURCE: "too many zones are open or closed",
}

/** The device answered a request with a status other than VIRTIO_BLK_S_OK. The device goes on working. */
export class BlockRequestError extends Error {
  override readonly name = "BlockRequestError"
  readonly status: BlockErrorStatus
  /** The request, for example "IN". */
  readonly request: string
  /** First sector of the request, where it has one. */
  readonly sector: number | bigint

  constructor(status: BlockErrorStatus, request: string, sector: number | bigint) {
    super(`${request} at sector ${sector} failed: ${status} (${REASONS[status]})`)
    this.status = status
    this.request = request
    this.sector = sector
  }
}
