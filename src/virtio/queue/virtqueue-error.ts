/** VirtqueueError: a driver broke a ring in a way that only a reset can repair. */

/** The driver broke the rules of the ring, so the device cannot go on without a reset. The message says what and where. */
export class VirtqueueError extends Error {
  override readonly name = "VirtqueueError"
}

/** An address in hexadecimal, for messages. */
export function hex(address: number): string {
  return `0x${address.toString(16)}`
}
