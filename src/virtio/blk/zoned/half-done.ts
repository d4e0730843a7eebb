/** Half-done writes to zones: they have moved a write pointer, so repeating them would write the data twice. */
import type { Zones } from "../../../backing/backing.ts"
import type { TakenChain } from "../../queue/ring.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import { BlkRequest } from "../request.ts"
import { isRepeatable } from "./requests.ts"

/** The device with the requests in flight. */
interface Device {
  readonly queues: readonly Virtqueue[]
  chains(queue: Virtqueue): readonly TakenChain[]
}

/** Call this before repeating requests in flight from their beginning. @throws Error if one of them must not be repeated */
export function checkNoneHalfDone(device: Device, zones: Zones | undefined): void {
  if (zones === undefined) return
  for (const queue of device.queues) {
    for (const chain of device.chains(queue)) {
      if (!(chain instanceof BlkRequest) || chain.done === 0 || isRepeatable(chain, zones)) continue
      throw new Error("a write to a zone of the disk is half done: let it go on (resume), and try again when it is through")
    }
  }
}
