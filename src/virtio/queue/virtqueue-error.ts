/** VirtqueueError: what a driver does to a ring that only a reset can cure. */

/** The driver broke the rules of the ring: the device cannot go on without a reset. Says what and where. */
export class VirtqueueError extends Error {
  override readonly name = "VirtqueueError"
}

/** An address as people read it. */
export function hex(address: number): string {
  return `0x${address.toString(16)}`
}
