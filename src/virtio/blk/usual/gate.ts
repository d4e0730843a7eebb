/**
 * Gate: whether requests may be served without a look at limits, errors and observers, or with a short one. It lets requests pass that are
 * far from the limits of a throttle, and times them if need be.
 */
import type { VirtioDevice } from "../../device.ts"
import type { ErrorPolicy } from "../errors/error-policy.ts"
import type { Observation } from "../observation/observation.ts"
import type { Allowance } from "../throttling/allowance.ts"
import type { Tally } from "../throttling/limits.ts"
import type { ThrottledRequests } from "../throttling/throttled-requests.ts"
import type { BlkWiring } from "../wiring.ts"

export class Gate {
  /** What times requests, if anything does. */
  readonly observation: Observation | undefined
  readonly #device: VirtioDevice
  readonly #errors: ErrorPolicy
  readonly #throttled: ThrottledRequests
  /** `VirtioDevice.changes` when requests were last found to be plain. */
  #plainAt = -1
  /** When the requests that are being served had been taken, in milliseconds of `performance.now()`; 0 if they are not timed. */
  #arrived = 0

  constructor({ device, errors, observation }: BlkWiring, throttled: ThrottledRequests) {
    this.#device = device
    this.#errors = errors
    this.observation = observation
    this.#throttled = throttled
  }

  /** Whether no request has to wait or is observed. Code that changes this increments `VirtioDevice.changes`. */
  isPlain(): boolean {
    return this.#plainAt === this.#device.changes || this.#looksPlain()
  }

  #looksPlain(): boolean {
    if (this.observation !== undefined || this.#throttled.throttle !== undefined || !this.mayOpen()) return false
    this.#plainAt = this.#device.changes
    return true
  }

  /**
   * Whether requests may ever pass one by one: if `allowance` lets one pass, and timed by `observation`. Code that changes this increments
   * `VirtioDevice.changes`.
   */
  mayOpen(): boolean {
    if (this.#errors.stoppedBy !== undefined || this.observation?.hasObserver === true) return false
    return this.#throttled.throttle !== undefined || this.#throttled.isFar
  }

  /** That of the throttle, if there is one. */
  get allowance(): Allowance | undefined {
    return this.#throttled.throttle?.allowance
  }

  /** Counts the requests of a batch, which have been taken, if all of them may pass. */
  letsAllPass(tally: Tally): boolean {
    const { observation } = this
    if (this.#errors.stoppedBy !== undefined || observation?.hasObserver === true || !this.#throttled.admits(tally)) return false
    if (observation?.isDue() === true) this.beginTiming(observation)
    return true
  }

  /** Reads the clock for the requests that have been taken, which `observation` has found to be due. Returns true. */
  beginTiming(observation: Observation): true {
    this.#arrived = observation.arrival()
    return true
  }

  /** Reads the clock again if it was read for them, before all of them are completed with success. */
  endTiming(reads: number, writes: number): void {
    if (this.#arrived !== 0) this.observation?.succeeded(this.takeArrival(), reads, writes)
  }

  /** The requests are served elsewhere from now on. Returns the time when they had been taken, or 0 if they are not timed. */
  takeArrival(): number {
    const arrived = this.#arrived
    this.#arrived = 0
    return arrived
  }
}
