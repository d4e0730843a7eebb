/**
 * Gate: whether requests may be served without a look at limits, errors and observers, or with a short one. It lets a single request pass
 * for a few comparisons, between two samples of latency and far from the limits of a throttle.
 */
import type { VirtioDevice } from "../../device.ts"
import type { ErrorPolicy } from "../errors/error-policy.ts"
import type { Observation } from "../observation/observation.ts"
import type { Tally } from "../throttling/limits.ts"
import type { ThrottledRequests } from "../throttling/throttled-requests.ts"
import type { BlkWiring } from "../wiring.ts"

export class Gate {
  readonly #device: VirtioDevice
  readonly #errors: ErrorPolicy
  readonly #observation: Observation | undefined
  readonly #throttled: ThrottledRequests
  /** `VirtioDevice.changes` when requests were last found to be plain. */
  #plainAt = -1

  constructor({ device, errors, observation }: BlkWiring, throttled: ThrottledRequests) {
    this.#device = device
    this.#errors = errors
    this.#observation = observation
    this.#throttled = throttled
  }

  /** Whether no request has to wait or is observed. Code that changes this increments `VirtioDevice.changes`. */
  isPlain(): boolean {
    return this.#plainAt === this.#device.changes || this.#looksPlain()
  }

  #looksPlain(): boolean {
    if (this.#observation !== undefined || this.#throttled.throttle !== undefined || !this.mayOpen()) return false
    this.#plainAt = this.#device.changes
    return true
  }

  /** Whether requests may ever pass one by one. Code that changes this increments `VirtioDevice.changes`. */
  mayOpen(): boolean {
    if (this.#errors.stoppedBy !== undefined || this.#observation?.isOfAll === true) return false
    return this.#throttled.throttle !== undefined || this.#throttled.isFar
  }

  /** If `mayOpen`: whether a single request, of any size, may pass. */
  isOpen(): boolean {
    return this.#observation?.isDue !== true && this.#throttled.letsOnePass
  }

  /** Counts a single request that passes. Call it only if `isOpen`. */
  pass(isWrite: boolean, bytes: number): void {
    this.#observation?.passed()
    this.#throttled.passed(isWrite, bytes)
  }

  /** Counts the requests of a batch, if all of them may pass. */
  letsAllPass(tally: Tally): boolean {
    if (this.#errors.stoppedBy !== undefined || this.#observation?.isDue === true || !this.#throttled.admits(tally)) return false
    this.#observation?.passed()
    return true
  }
}
