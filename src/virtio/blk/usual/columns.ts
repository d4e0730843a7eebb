/** The columns of a usual request's row that are the block device's: see `UsualRequests`. */
import { OWN } from "../../queue/chain-rows.ts"

/** IN or OUT in bit 0. In the bits above, how many stretches of RAM the data are in, if it is more than one. */
export const KIND = OWN
/** First sector. */
export const SECTOR = OWN + 1
/** Of the data: byte offset in the region of the only stretch, else the index of the first in `Stretches.words`; and bytes. */
export const OFFSET = OWN + 2
export const LENGTH = OWN + 3
/** Byte offset in the region of the status byte. */
export const STATUS = OWN + 4

/** Requests at most. */
export const MOST_USUAL = 256
/** Descriptors of data that a request has at most. */
export const MOST_SEGMENTS = 256
/** Once requests come to so many of them, no more are taken. */
export const MOST_USUAL_SEGMENTS = 2048
/** Bytes of data at most: longer requests are done in slices. */
export const MOST_BYTES_OF_ONE = 1 << 20
/** Once requests come to so many bytes, no more are taken: requests of other queues wait for them. */
export const MOST_USUAL_BYTES = 16 << 20
/** RAM below this address: addresses, offsets and lengths there have 32 bits. */
export const ADDRESSES_WITH_ROWS = 2 ** 32
