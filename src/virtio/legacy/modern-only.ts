/** What only modern drivers can accept: bit 33 is none of theirs to a legacy driver, whose addresses are guest-physical. */
import { VIRTIO_F } from "../spec.ts"
import type { TransportedDevice } from "../transport.ts"

const IN_WORD_1 = 1 << (VIRTIO_F.ACCESS_PLATFORM - 32)

/** @throws RangeError when a device that is to be behind a legacy interface needs drivers that know ACCESS_PLATFORM; `remedy` says more */
export function checkLegacyCan({ negotiation }: TransportedDevice, remedy: string): void {
  if ((negotiation.deviceFeatures(1) & IN_WORD_1) !== 0) {
    throw new RangeError(`withFeatures: ACCESS_PLATFORM is for modern drivers: ${remedy}`)
  }
}
