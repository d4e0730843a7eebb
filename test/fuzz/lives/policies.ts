/**
 * What the host does to the guest's requests in the lives fuzzer: in some lives it throttles them, at a clock that the fuzzer moves, or
 * stops the disk at errors; and it is told of each.
 */
import type { VirtioBlkOptions } from "../../../src/virtio/blk/config.ts"
import type { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { Throttle, type ThrottleLimits } from "../../../src/index.ts"
import type { Rng } from "../../support/rng.ts"
import { ManualClock } from "../../virtio/blk/throttling/manual-clock.ts"

export class Policies {
  readonly options: VirtioBlkOptions
  readonly clock = new ManualClock()
  readonly #rng: Rng
  /** Requests that observers were told of, and requests that devices which are gone have completed. */
  #observed = 0
  #completed = 0

  constructor(rng: Rng) {
    this.#rng = rng
    this.options = {
      ...(rng.chance(0.4) && { throttle: this.#throttle() }),
      ...(rng.chance(0.5) && { latency: rng.pick(["sampled", "all"] as const) }),
      ...(rng.chance(0.3) && { readErrors: "stop", writeErrors: "stop" }),
      ...(rng.chance(0.7) && { observer: () => void this.#observed++ }),
    }
  }

  /** Lets some time pass. */
  pass(ms = this.#rng.below(100)): void {
    this.clock.runTo(this.clock.time + ms)
  }

  changeLimits(device: VirtioBlk): void {
    const { throttle } = device
    if (throttle === undefined || this.#rng.chance(0.3)) device.setThrottle(this.#throttle())
    else if (this.#rng.chance(0.3)) device.setThrottle(undefined)
    else throttle.setLimits(this.#limits())
  }

  /** `device` is unplugged: it completes nothing any more. */
  gone(device: VirtioBlk): void {
    this.#completed += completedBy(device)
  }

  /** What is wrong with what the observer was told; undefined when nothing is. */
  problem(device: VirtioBlk): string | undefined {
    const completed = this.#completed + completedBy(device)
    if (this.options.observer === undefined || this.#observed === completed) return undefined
    return `the observer was told of ${this.#observed} of ${completed} requests`
  }

  #throttle(): Throttle {
    return new Throttle(this.#limits(), { clock: this.clock })
  }

  #limits(): ThrottleLimits {
    return { requests: this.#rng.between(20, 500), writeBytes: this.#rng.between(10_000, 100_000) }
  }
}

function completedBy({ statistics: { merged: _, ...kinds } }: VirtioBlk): number {
  return Object.values(kinds).reduce((sum, { requests }) => sum + requests, 0)
}
