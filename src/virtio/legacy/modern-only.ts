/** Refuses ACCESS_PLATFORM on a legacy interface: legacy drivers cannot accept bit 33, and their addresses are guest-physical. */
import { VIRTIO_F } from "../spec.ts"
import type { TransportedDevice } from "../transport.ts"

const IN_WORD_1 = 1 << (VIRTIO_F.ACCESS_PLATFORM - 32)

/** @throws RangeError if the device offers ACCESS_PLATFORM, so that it cannot have a legacy interface. `remedy` ends the message. */
export function checkLegacyCan({ negotiation }: TransportedDevice, remedy: string): void {
  if ((negotiation.deviceFeatures(1) & IN_WORD_1) !== 0) {
    throw new RangeError(`withFeatures: ACCESS_PLATFORM is for modern drivers: ${remedy}`)
  }
}
