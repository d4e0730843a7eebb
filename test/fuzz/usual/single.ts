/** Single requests of a split ring, read fast and generally: see usual-fuzzer.ts. */
import type { RequestLimits } from "../../../src/virtio/blk/request.ts"
import type { UsualRequests } from "../../../src/virtio/blk/usual/requests.ts"
import { SingleRequest } from "../../../src/virtio/blk/usual/single-request.ts"
import type { SplitChains } from "../../../src/virtio/queue/ring.ts"
import { SplitUsualFuzzer } from "./split.ts"

export class SingleUsualFuzzer extends SplitUsualFuzzer {
  readonly #single = new SingleRequest()

  /** It takes one of the copies. */
  protected override takeFrom(ring: SplitChains, requests: UsualRequests, limits: RequestLimits): void {
    requests.took(0, 0, 0, 0)
    const isFull = this.rng.chance(0.02)
    if (isFull) ring.inFlight = ring.size
    const isTaken = this.#single.take(ring, limits)
    if (isTaken && isFull) throw new Error("more chains in flight than the ring has descriptors")
    if (isFull) ring.inFlight = 0
    if (isTaken) requests.add(this.#single, 0)
  }
}
