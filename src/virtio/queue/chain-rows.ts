/**
 * Chains as rows of numbers: what a ring needs to give the chains of a batch back, and the device's own columns. 64 chains as objects
 * would take up half of the processor's first cache.
 */

/** Numbers of a row. */
export const ROW = 8
/** The chain's name in the ring: see `TakenChain.head`. */
export const HEAD = 0
/** Descriptors that the chain takes up in a packed ring; split rings do not use this. */
export const SLOTS = 1
/** Bytes that the device writes into the chain, from its first writable byte on. */
export const WRITTEN = 2
/** The first of the device's own columns. */
export const OWN = 3
