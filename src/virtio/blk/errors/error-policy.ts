/**
 * ErrorPolicy: decides about a request that the backing fails: the guest gets the error, or it is ignored, or the disk stops. A stopped
 * disk takes no requests and keeps those that it has, including failed ones; `goOn` starts them again.
 */
import { BackingError, type BackingErrorCode } from "../../../backing/backing.ts"
import type { VirtioDevice } from "../../device.ts"
import { later } from "../../../turns.ts"
import type { Failures } from "./failures.ts"
import { type BlkRequest, changesDisk, WAITING, zeroData } from "../request.ts"
import { type BlkStatus, VIRTIO_BLK_S, VIRTIO_BLK_T } from "../spec.ts"
import type { DiskStop, ReadErrorPolicy, WriteErrorPolicy } from "./policies.ts"
import { placeOf } from "../observation/place.ts"

const { OK } = VIRTIO_BLK_S
const { IN, FLUSH, ZONE_APPEND } = VIRTIO_BLK_T

/** Errors that another try cannot mend. "out-of-bounds": the disk has shrunk. */
const NEVER_BETTER: ReadonlySet<BackingErrorCode> = new Set(["unsupported", "out-of-bounds"])

/** Requests that a stopped disk keeps. */
export interface Keepable {
  /** Makes them wait until `goOn` is called. If a reset ends them, `forget` is called instead. */
  park(forget: () => void): void
  goOn(): void
}

/** The parts of an `ErrorPolicy`. */
export interface ErrorPolicyParts {
  readonly readErrors: ReadErrorPolicy
  readonly writeErrors: WriteErrorPolicy
  readonly onStop: ((stop: DiskStop) => void) | undefined
  readonly failures: Failures
  readonly device: VirtioDevice
}

export class ErrorPolicy {
  readonly #parts: ErrorPolicyParts
  #stoppedBy: DiskStop | undefined
  readonly #kept = new Set<Keepable>()

  constructor(parts: ErrorPolicyParts) {
    this.#parts = parts
  }

  /** Why the disk has stopped; undefined if it has not. */
  get stoppedBy(): DiskStop | undefined {
    return this.#stoppedBy
  }

  /**
   * The outcome of `request`, which failed with `error` after `request.done` bytes: the status for the guest, or WAITING to keep the
   * request. `mayStore`: whether guest memory may be touched for it. It is called after `onError`, which may do anything.
   */
  outcomeOf(request: BlkRequest, error: unknown, mayStore: () => boolean): BlkStatus | typeof WAITING {
    const status = this.#parts.failures.statusOf(error)
    if (!(error instanceof BackingError) || NEVER_BETTER.has(error.code) || error.code.startsWith("zone-")) return status
    // An append that is done twice is worse than an error, after which the guest reads the write pointer.
    if (request.type === ZONE_APPEND && error.mayBeDone) return status
    const policy = this.#policyFor(request)
    if (policy === "stop" || (policy === "enospc" && error.code === "no-space")) {
      this.#stop(request, error)
      return WAITING
    }
    // A failed zone append has no sector to return.
    if (policy !== "ignore" || request.type === ZONE_APPEND) return status
    if (request.type !== IN) return OK
    if (!mayStore()) return status
    // The guest is told that it has all of its data: missing bytes must be zeroes, and not old content of its memory.
    zeroData(request, request.done)
    return OK
  }

  /** Keeps requests until the disk goes on. */
  keep(requests: Keepable): void {
    this.#kept.add(requests)
    requests.park(() => this.#kept.delete(requests))
  }

  /** Starts the disk again. */
  goOn(): void {
    this.#stoppedBy = undefined
    this.releaseKept()
  }

  /** Lets kept requests continue, in order of arrival, unless the disk is stopped, or held for a change: then they count as idle. */
  releaseKept(): void {
    if (this.#stoppedBy !== undefined || this.#parts.device.pauses.isHeld) return
    const kept = [...this.#kept]
    this.#kept.clear()
    for (const requests of kept) requests.goOn()
  }

  #policyFor(request: BlkRequest): ReadErrorPolicy | WriteErrorPolicy {
    const { readErrors, writeErrors } = this.#parts
    if (request.type === IN) return readErrors
    return request.type === FLUSH || changesDisk(request) ? writeErrors : "report"
  }

  #stop(request: BlkRequest, error: BackingError): void {
    if (this.#stoppedBy !== undefined) return
    const { device, onStop } = this.#parts
    const stop: DiskStop = { error, ...placeOf(request) }
    this.#stoppedBy = stop
    void device.pauses.pause()
    // Not called inside a turn: an `onStop` that calls `resume` at once would loop forever on a permanent error.
    if (onStop === undefined) return
    later(() => {
      if (this.#stoppedBy === stop) onStop(stop)
    })
  }
}
