/** The block device's own columns in the row of a usual request (see `UsualRequests`), and the limits of usual requests. */
import { OWN } from "../../queue/chain-rows.ts"

/** IN or OUT in bit 0. The bits above hold the number of stretches of RAM with the data, or 0 for a single stretch. */
export const KIND = OWN
/** First sector. */
export const SECTOR = OWN + 1
/** OFFSET: byte offset in the region of a single stretch, else index of the first one in `Stretches.words`. LENGTH: bytes of data. */
export const OFFSET = OWN + 2
export const LENGTH = OWN + 3
/** Byte offset in the region of the status byte. */
export const STATUS = OWN + 4

/** Most requests of a batch. */
export const MOST_USUAL = 256
/** Most data descriptors of a request. */
export const MOST_SEGMENTS = 256
/** Once the requests have this many data descriptors in all, no more are taken. */
export const MOST_USUAL_SEGMENTS = 2048
/** Most bytes of data of a request: longer ones are done in slices. */
export const MOST_BYTES_OF_ONE = 1 << 20
/** Once the requests have this many bytes in all, no more are taken, because requests of other queues wait meanwhile. */
export const MOST_USUAL_BYTES = 16 << 20
/** Rows need RAM below this address, where addresses, offsets and lengths have 32 bits. */
export const ADDRESSES_WITH_ROWS = 2 ** 32
