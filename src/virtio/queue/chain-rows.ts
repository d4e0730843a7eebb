/**
 * Chains as rows of numbers: what a ring needs of the chains of a batch to give them back, and what their device keeps beside that. An
 * object for each of 64 chains takes up half of the processor's first cache.
 */

/** Numbers of a row. */
export const ROW = 8
/** What the chain is called in the ring: see `TakenChain.head`. */
export const HEAD = 0
/** Descriptors of a packed ring that it takes up; split rings leave it alone. */
export const SLOTS = 1
/** Bytes that the device writes into it, from its first writable byte on. */
export const WRITTEN = 2
/** From here on rows are the device's. */
export const OWN = 3
