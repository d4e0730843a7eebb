/** What a driver did last does not make what it does now slow. */
import { afterEach, expect, it, vi } from "vitest"
import { MemoryBacking } from "../../../src/index.ts"
import { SingleRequest, TAKEN } from "../../../src/virtio/blk/usual/single-request.ts"
import { RingGuest } from "../../harness/guest.ts"
import { pattern } from "../../harness/requests.ts"
import { F, T } from "../../harness/words.ts"

afterEach(() => {
  vi.restoreAllMocks()
})

it.each([false, true])("VQ-08 PK-15 writes that are each followed by a flush still take the short path (packed ring: %s)", (packed) => {
  const guest = new RingGuest({
    backing: new MemoryBacking({ size: 1 << 20 }),
    features: [F.FLUSH],
    packed,
    disk: { withFeatures: ["RING_PACKED"] },
  })
  const taken = vi.spyOn(SingleRequest.prototype, packed ? "takePacked" : "takeSplit")
  for (let sector = 0; sector < 100; sector++) {
    guest.run({ type: T.OUT, sector, out: pattern(sector, 1) })
    guest.run({ type: T.FLUSH })
  }
  const alone = taken.mock.results.filter(({ value }) => value === (packed ? TAKEN : true)).length
  expect(alone).toBe(100)
})
