/** Single requests of a ring of either kind, read fast and generally: see usual-fuzzer.ts. */
import type { RequestLimits } from "../../../src/virtio/blk/request.ts"
import type { UsualRequests } from "../../../src/virtio/blk/usual/requests.ts"
import { NONE, SingleRequest, TAKEN } from "../../../src/virtio/blk/usual/single-request.ts"
import type { PackedChains, SplitChains } from "../../../src/virtio/queue/ring.ts"
import { PackedUsualFuzzer } from "./packed.ts"
import { SplitUsualFuzzer } from "./split.ts"

export class SplitSingleUsualFuzzer extends SplitUsualFuzzer {
  readonly #single = new SingleRequest()

  /** It takes one of the copies. */
  protected override takeFrom(ring: SplitChains, requests: UsualRequests, limits: RequestLimits): void {
    requests.took(0, 0, 0, 0)
    const isFull = this.rng.chance(0.02)
    if (isFull) ring.inFlight = ring.size
    const isTaken = this.#single.takeSplit(ring, limits)
    if (isTaken && isFull) throw new Error("more chains in flight than the ring has descriptors")
    if (isFull) ring.inFlight = 0
    if (isTaken) requests.add(this.#single, 0)
  }
}

export class PackedSingleUsualFuzzer extends PackedUsualFuzzer {
  readonly #single = new SingleRequest()

  /** It takes nothing unless one waits: more than one are left. */
  protected override takeFrom(ring: PackedChains, requests: UsualRequests, limits: RequestLimits): void {
    requests.took(0, 0, 0, 0)
    const isAvailable = !this.isChanging && ring.descriptors.isAvailable
    const taken = this.#single.takePacked(ring, limits)
    if (taken === NONE && isAvailable) throw new Error("one waits")
    if (taken !== TAKEN) return
    if (ring.descriptors.isAvailable && !this.isChanging) throw new Error("one was taken, and another waits")
    requests.add(this.#single, 0)
  }
}
