/** Errors that drivers make with a split ring as a whole, built out of line so that hot functions stay short. */
import type { QueueAreas } from "./ring.ts"
import { hex, VirtqueueError } from "./virtqueue-error.ts"

/** @throws VirtqueueError for a size that is not a power of two, and rings at odd addresses */
export function checkSplitAreas({ size, availRing, usedRing }: QueueAreas): void {
  if ((size & (size - 1)) !== 0) throw new VirtqueueError(`a split ring of ${size} descriptors, which is not a power of two`)
  if (availRing % 2 !== 0) throw new VirtqueueError(`available ring at odd address ${hex(availRing)}`)
  if (usedRing % 2 !== 0) throw new VirtqueueError(`used ring at odd address ${hex(usedRing)}`)
}

export function tooManyInFlight(size: number): VirtqueueError {
  return new VirtqueueError(`more than ${size} chains in flight: the driver reused descriptors that it had not got back`)
}

export function tooFarAhead(availIdx: number, lastAvail: number, size: number): VirtqueueError {
  return new VirtqueueError(`available index ${availIdx} is ${(availIdx - lastAvail) & 0xffff} ahead of ${lastAvail} in a queue of ${size}`)
}
