/** VirtqueueError: what a driver does to a ring that only a reset can cure. */

/** The driver broke the rules of the ring: the device cannot go on without a reset. Says what and where. */
export class VirtqueueError extends Error {
  override readonly name = "VirtqueueError"
}
