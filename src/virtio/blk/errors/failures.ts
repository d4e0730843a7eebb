/** Failures: what a backing throws: the status that it becomes for the guest, and the person and the program that hear of it. */
import { BackingError, type BackingErrorCode } from "../../../backing/backing.ts"
import { type BlkStatus, VIRTIO_BLK_S } from "../spec.ts"

const { IOERR, UNSUPP, ZONE_INVALID_CMD, ZONE_UNALIGNED_WP, ZONE_OPEN_RESOURCE, ZONE_ACTIVE_RESOURCE } = VIRTIO_BLK_S

/** What a failure of the backing tells the guest. Total, so that a new code does not compile until somebody has thought about it. */
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
/** From here on a status says what the driver has done wrong with zones. */
const FIRST_OF_ZONES = ZONE_INVALID_CMD

export class Failures {
  /** The last one. */
  last: unknown
  /** Called for each bug, which is thrown by the next `throwBugs`. */
  onBug = (): void => {}
  readonly #onError: ((error: unknown) => void) | undefined
  readonly #knowsZones: () => boolean
  /** Thrown by a backing, but not a BackingError: somebody's bug, to be thrown on once the guest has its answers. */
  readonly #bugs: unknown[] = []

  /** `knowsZones`: whether the driver knows the statuses of zoned disks. */
  constructor(onError: ((error: unknown) => void) | undefined, knowsZones: () => boolean) {
    this.#onError = onError
    this.#knowsZones = knowsZones
  }

  /** The status of a request that failed with `error`. Tells `onError`, unless the guest did something wrong and is told what. */
  statusOf(error: unknown): BlkStatus {
    // A subclass from JavaScript may have a code of its own.
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

  /** Keeps somebody's bug for the next `throwBugs`. */
  addBug(bug: unknown): void {
    this.#bugs.push(bug)
    this.onBug()
  }

  /** @throws on what is a bug; from where promises are waited for it ends as an unhandled rejection */
  throwBugs(): void {
    if (this.#bugs.length > 0) throw this.#bugs.splice(0)[0]
  }
}
