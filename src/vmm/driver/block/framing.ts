/**
 * How the bytes of a block request are spread over descriptors. The device must not care ([VIRTIO] 2.7.4.1); tests choose odd ways.
 *
 * A request is two runs of bytes: what the device reads (header, then data), and what it writes (data, then the status byte).
 */
import { checkOptions, type Rules } from "../../../options.ts"
import { BLK_HEADER } from "./spec.ts"
import type { Segment } from "../virtio/rings/segments.ts"

/** How to cut a request up. Default: the header, the data in segments as large as the device takes, and the status on its own. */
export interface BlockFraming {
  /**
   * Sizes of the device-readable descriptors in turn, from the header's first byte on, as far as the request has bytes. The rest makes one
   * more. 0 makes an empty descriptor.
   */
  readonly readable?: readonly number[]
  /** Sizes of the device-writable descriptors in turn; the last writable byte is the status. */
  readonly writable?: readonly number[]
  /** Size of one data segment where `readable` or `writable` do not say. Bytes. Default: as much as the device takes. */
  readonly segmentSize?: number
  /** Puts each descriptor's memory apart from the others. Costs a copy. Default false: one piece of memory. */
  readonly scattered?: boolean
  /**
   * True: all descriptors in an indirect table. `{ direct: n }`: the first n in the ring, the others in a table; not in a packed ring.
   * False: all in the ring. Default: a table where INDIRECT_DESC is negotiated.
   */
  readonly indirect?: boolean | { readonly direct: number }
}

const FRAMING_RULES: Rules<BlockFraming> = {
  readable: "array?", writable: "array?", segmentSize: "number?", scattered: "boolean?", indirect: "any?",
}

/** @throws TypeError for a wrong option of a framing */
export function checkFraming(who: string, framing: BlockFraming): void {
  checkOptions(`${who}, framing`, framing, FRAMING_RULES)
}

/** Sizes of the descriptors of one request, readable ones and writable ones. */
export interface FramePlan {
  readonly readable: readonly number[]
  readonly writable: readonly number[]
}

export interface FrameInput {
  /** Data bytes that the device reads. */
  readonly dataOut: number
  /** Data bytes that the device writes. */
  readonly dataIn: number
  /** Bytes of one data segment, at most. */
  readonly segmentSize: number
  /** Descriptors of one request, at most: the queue's size. */
  readonly descriptors: number
}

/**
 * Decides on the descriptors of a request.
 * @throws RangeError for a size that is not a whole number of bytes, and when `framing` needs more descriptors than a chain may have
 */
export function planFrame(input: FrameInput, framing: BlockFraming = {}): FramePlan {
  const readableBytes = BLK_HEADER.SIZE + input.dataOut
  const writableBytes = input.dataIn + 1
  const segmentSize = framing.segmentSize ?? input.segmentSize
  const plan = {
    readable: framing.readable === undefined
      ? [BLK_HEADER.SIZE, ...cut(input.dataOut, segmentSize)]
      : withRest(framing.readable, readableBytes),
    writable: framing.writable === undefined ? [...cut(input.dataIn, segmentSize), 1] : withRest(framing.writable, writableBytes),
  }
  if (plan.readable.length + plan.writable.length <= input.descriptors) return plan
  // A queue of two has room for one readable and one writable descriptor.
  const isFree = framing.readable === undefined && framing.writable === undefined && framing.segmentSize === undefined
  if (isFree && input.descriptors >= 2) return { readable: [readableBytes], writable: [writableBytes] }
  throw new RangeError(
    `a request of ${plan.readable.length + plan.writable.length} descriptors is longer than the queue (${input.descriptors})`,
  )
}

/** The segments of a plan over one piece of memory for each run of bytes. */
export function segmentsOf(plan: FramePlan, readable: number, writable: number): Segment[] {
  const segments: Segment[] = []
  for (const length of plan.readable) {
    segments.push({ address: readable, length, writable: false })
    readable += length
  }
  for (const length of plan.writable) {
    segments.push({ address: writable, length, writable: true })
    writable += length
  }
  return segments
}

function cut(bytes: number, size: number): number[] {
  if (!Number.isSafeInteger(size) || size < 1) throw new RangeError(`segment size ${size} is not a whole number from 1 up`)
  const sizes: number[] = []
  for (let left = bytes; left > 0; left -= size) sizes.push(Math.min(left, size))
  return sizes
}

function withRest(sizes: readonly number[], total: number): number[] {
  const bad = sizes.find((size) => !Number.isSafeInteger(size) || size < 0)
  if (bad !== undefined) throw new RangeError(`a descriptor cannot have ${bad} bytes`)
  const used: number[] = []
  let left = total
  for (const size of sizes) {
    if (left === 0) break
    used.push(Math.min(size, left))
    left -= Math.min(size, left)
  }
  if (left > 0) used.push(left)
  return used
}
