/**
 * ErrorPolicy: what becomes of a request that the backing fails: the guest hears of it, or does not, or the disk stops. A stopped disk
 * takes no requests and keeps those that it has, the failed ones included; `goOn` begins them again.
 */
import { BackingError, type BackingErrorCode } from "../../../backing/backing.ts"
import type { VirtioDevice } from "../../device.ts"
import { later } from "../../later.ts"
import type { Failures } from "./failures.ts"
import { type BlkRequest, changesDisk, WAITING, zeroData } from "../request.ts"
import { type BlkStatus, VIRTIO_BLK_S, VIRTIO_BLK_T } from "../spec.ts"
import type { DiskStop, ReadErrorPolicy, WriteErrorPolicy } from "./policies.ts"
import { placeOf } from "../observation/place.ts"

const { OK } = VIRTIO_BLK_S
const { IN, FLUSH, ZONE_APPEND } = VIRTIO_BLK_T

/** What is not there now, or is out of the disk's reach since it has shrunk, will not be there at another try. */
const NEVER_BETTER: ReadonlySet<BackingErrorCode> = new Set(["unsupported", "out-of-bounds"])

/** Requests that a stopped disk keeps. */
export interface Keepable {
  /** Makes them wait until somebody calls `goOn`. `forget` is called in its place when their life has ended. */
  park(forget: () => void): void
  goOn(): void
}

/** What an `ErrorPolicy` is made of. */
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

  /** Why the disk has stopped; undefined while it has not. */
  get stoppedBy(): DiskStop | undefined {
    return this.#stoppedBy
  }

  /**
   * The outcome of `request`, which failed with `error` after `request.done` bytes: the status that the guest is told, or WAITING when it
   * is to be kept. `mayStore`: whether guest memory may be touched for it, where it has been found again if need be.
   * It is asked behind `onError`, which may do anything.
   */
  outcomeOf(request: BlkRequest, error: unknown, mayStore: () => boolean): BlkStatus | typeof WAITING {
    const status = this.#parts.failures.statusOf(error)
    if (!(error instanceof BackingError) || NEVER_BETTER.has(error.code) || error.code.startsWith("zone-")) return status
    // To be done twice is worse than an error, after which the guest asks where the write pointer is.
    if (request.type === ZONE_APPEND && error.mayBeDone) return status
    const policy = this.#policyFor(request)
    if (policy === "stop" || (policy === "enospc" && error.code === "no-space")) {
      this.#stop(request, error)
      return WAITING
    }
    // What a zone append is to tell, nobody knows when it fails.
    if (policy !== "ignore" || request.type === ZONE_APPEND) return status
    if (request.type !== IN) return OK
    if (!mayStore()) return status
    // The guest is told that it has all of its data: what is missing is zeroes, not what its memory held before.
    zeroData(request, request.done)
    return OK
  }

  /** Keeps requests until the disk goes on. */
  keep(requests: Keepable): void {
    this.#kept.add(requests)
    requests.park(() => this.#kept.delete(requests))
  }

  /** The disk goes on, beginning with what it has kept, in the order in which it came. */
  goOn(): void {
    this.#stoppedBy = undefined
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
    // Not from inside of a turn: an `onStop` that calls `resume` at once, for an error that stays, would never end.
    if (onStop === undefined) return
    later(() => {
      if (this.#stoppedBy === stop) onStop(stop)
    })
  }
}
