/** Failures: what a backing throws: the status that it becomes for the guest, and the person and the program that hear of it. */
import { BackingError, type BackingErrorCode } from "../../backing/backing.ts"
import { type BlkStatus, VIRTIO_BLK_S } from "./spec.ts"

const { IOERR, UNSUPP } = VIRTIO_BLK_S

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
}

export class Failures {
  /** The last one. */
  last: unknown
  /** Called for each bug, which is thrown by the next `throwBugs`. */
  onBug = (): void => {}
  readonly #onError: ((error: unknown) => void) | undefined
  /** Thrown by a backing, but not a BackingError: somebody's bug, to be thrown on once the guest has its answers. */
  readonly #bugs: unknown[] = []

  constructor(onError: ((error: unknown) => void) | undefined) {
    this.#onError = onError
  }

  /** The status of a request that failed with `error`. Tells `onError`. */
  statusOf(error: unknown): BlkStatus {
    this.last = error
    if (!(error instanceof BackingError)) this.addBug(error)
    try {
      this.#onError?.(error)
    } catch (bug) {
      this.addBug(bug)
    }
    // A subclass from JavaScript may have a code of its own.
    return error instanceof BackingError ? (STATUS_BY_CODE[error.code] ?? IOERR) : IOERR
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
