/** InFlight: memory that is released while a reset is under way. */
import { expect, it } from "vitest"
import { NO_MEMORY } from "../../src/virtio/guest-memory.ts"
import type { Ring } from "../../src/virtio/queue/ring.ts"
import { InFlight, type Outstanding } from "../../src/virtio/in-flight.ts"
import { Virtqueue } from "../../src/virtio/virtqueue.ts"
import { Work } from "../../src/virtio/work.ts"
import { settled } from "../harness/fake-disk.ts"

const BOUND = 32 << 20

it("ST-03 a reset that releases memory wakes waiting queues only after it has counted the old writes, each once", async () => {
  const inFlight = new InFlight(new Work(() => {}))
  const queue = new Virtqueue(0, 4, {
    serve: () => false, isLive: () => false, breakDown() {}, negotiation: { isNegotiated: () => false },
    memory: NO_MEMORY, work: { open: true },
  })
  const one = (calling: boolean, held: number): Outstanding => ({
    queue, ring: {} as Ring, calling, changesDisk: true, chains: [], run: () => false, forgotten: () => inFlight.hold(-held),
  })
  inFlight.hold(BOUND)
  inFlight.add(one(false, BOUND))
  inFlight.add(one(true, 0))
  const seen: number[] = []
  inFlight.waitForMemory({
    run: () => {
      seen.push(inFlight.oldChanges)
      // What an interrupt handler may do: another reset.
      inFlight.forgetDead()
      return false
    },
  })
  inFlight.forgetDead()
  expect([seen, inFlight.oldChanges, inFlight.count, inFlight.heldBytes]).toEqual([[], 1, 0, 0])
  await settled()
  expect([seen, inFlight.oldChanges]).toEqual([[1], 1])
})
