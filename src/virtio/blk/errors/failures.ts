/** Failures: turns an error of the backing into a status for the guest, and reports it to `onError`. */
import { BackingError, type BackingErrorCode } from "../../../backing/backing.ts"
import { type BlkStatus, VIRTIO_BLK_S } from "../spec.ts"

const { IOERR, UNSUPP, ZONE_INVALID_CMD, ZONE_UNALIGNED_WP, ZONE_OPEN_RESOURCE, ZONE_ACTIVE_RESOURCE } = VIRTIO_BLK_S

/** The status for each code. Total, so that a new code without a status does not compile. */
const STATUS_BY_CODE: Readonly<Record<BackingErrorCode, BlkStatus>> = {
  io: IOERR,
  "no-space": IOERR,
  "out-of-bounds": IOERR,
  "read-only": IOERR,
  corrupt: IOERR,
  "invalid-format": IOERR,
  unsupported: UNSUPP,
  "not-found": IOERR,
  permission: IOERR,
  busy: IOERR,
  closed: IOERR,
  exists: IOERR,
  "invalid-argument": IOERR,
  "zone-invalid": ZONE_INVALID_CMD,
  "zone-unaligned": ZONE_UNALIGNED_WP,
  "zone-open-limit": ZONE_OPEN_RESOURCE,
  "zone-active-limit": ZONE_ACTIVE_RESOURCE,
}
/** This status and higher ones name mistakes of the driver with zones. */
const FIRST_OF_ZONES = ZONE_INVALID_CMD

export class Failures {
  /** The last failure. */
  last: unknown
  /** Called for each bug, which is thrown by the next `throwBugs`. */
  onBug = (): void => {}
  readonly #onError: ((error: unknown) => void) | undefined
  readonly #knowsZones: () => boolean
  /** Errors of a backing that are not BackingErrors: bugs, to be rethrown after the guest has its answers. */
  readonly #bugs: unknown[] = []

  /** `knowsZones`: whether the driver knows the statuses of zoned disks. */
  constructor(onError: ((error: unknown) => void) | undefined, knowsZones: () => boolean) {
    this.#onError = onError
    this.#knowsZones = knowsZones
  }

  /** The status of a request that failed with `error`. Calls `onError`, unless it was the driver's mistake. */
  statusOf(error: unknown): BlkStatus {
    // A JavaScript subclass may have an unknown code.
    const status = error instanceof BackingError ? (STATUS_BY_CODE[error.code] ?? IOERR) : IOERR
    if (status >= FIRST_OF_ZONES && this.#knowsZones()) return status
    this.last = error
    if (!(error instanceof BackingError)) this.addBug(error)
    try {
      this.#onError?.(error)
    } catch (bug) {
      this.addBug(bug)
    }
    return status >= FIRST_OF_ZONES ? IOERR : status
  }

  /** Keeps a bug for the next `throwBugs`. */
  addBug(bug: unknown): void {
    this.#bugs.push(bug)
    this.onBug()
  }

  /** @throws the bugs that were kept. After a promise they end as unhandled rejections. */
  throwBugs(): void {
    if (this.#bugs.length > 0) throw this.#bugs.splice(0)[0]
  }
}
