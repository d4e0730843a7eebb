/** BlkRequest: a descriptor chain read as a block request ([VIRTIO] 5.2.6). No input or output happens here. */
import { DescriptorChain } from "../queue/descriptor-chain.ts"
import { type GuestMemory, viewOf } from "../guest-memory.ts"
import { VirtqueueError } from "../queue/split-queue.ts"
import { type BlkStatus, HEADER_SIZE, SEGMENT_SIZE, VIRTIO_BLK_T, VIRTIO_BLK_T_BARRIER } from "./spec.ts"

/** The outcome of a request that the backing has not answered yet. */
export const WAITING = -1

/** A chain and what it asks for. Objects are filled anew for each request. */
export class BlkRequest extends DescriptorChain {
  /** How it ends: OK until something is wrong with it, WAITING while the backing works on it. */
  outcome: BlkStatus | typeof WAITING = WAITING
  /** As in the header; of a legacy request, without the barrier bit. */
  type = 0
  /** First sector; above 2^53 inexact, which is far beyond every capacity all the same. */
  sector = 0
  /** Guest-physical address of the status byte: the last device-writable byte of the chain, however it is split. */
  statusAddress = 0
  /** Bytes of data: what can be written before the status byte, or what is to be read after the header, as the type says. */
  dataLength = 0
  /** Where the data begin: a segment of the chain, and a byte offset in it. */
  dataSegment = 0
  dataOffset = 0
  /** Of DISCARD and WRITE_ZEROES, once they have been read. */
  ranges: readonly RangeSegment[] = NO_RANGES
  /** Of the first request that a call on the backing serves: where in the batch those end that it serves too. */
  groupEnd = 0
  /** Of the same, IN or OUT: the data of all of them in the order of the disk, where that is one stretch of RAM; undefined where it is none or several. */
  buffer: Uint8Array | undefined
  /** The same, where it is several. */
  buffers: Uint8Array[] | undefined
}

const NO_RANGES: readonly RangeSegment[] = []

/** One segment of a DISCARD or WRITE_ZEROES request, as it stands there. */
export interface RangeSegment {
  readonly sector: number
  readonly sectors: number
  readonly flags: number
}

/**
 * Reads the chain of `request`. The header is read once, whatever the guest does to it meanwhile. Throws VirtqueueError when it
 * cannot be answered: no whole header, or no byte for a status.
 */
export function parseRequest(request: BlkRequest, memory: GuestMemory, legacy: boolean): void {
  if (request.readableLength < HEADER_SIZE) throw new VirtqueueError(`chain ${request.head} has ${request.readableLength} readable bytes, a request header takes ${HEADER_SIZE}`)
  if (request.writableLength === 0) throw new VirtqueueError(`chain ${request.head} has no writable byte for a status`)
  request.statusAddress = request.end - 1
  parseHeader(request, memory)
  if (legacy) {
    request.type = (request.type & ~VIRTIO_BLK_T_BARRIER) >>> 0
    if (request.type === VIRTIO_BLK_T.FLUSH_OUT) request.type = VIRTIO_BLK_T.FLUSH
  }
  if (request.type === VIRTIO_BLK_T.IN || request.type === VIRTIO_BLK_T.GET_ID) {
    request.dataLength = request.writableLength - 1
    request.dataSegment = request.readableCount
    request.dataOffset = 0
  } else {
    request.dataLength = request.readableLength - HEADER_SIZE
    seekReadable(request, HEADER_SIZE)
  }
}

/** Throws VirtqueueError unless each segment still is in one piece of RAM, as the queue found it: the layout of memory may have changed since. */
export function checkStillRam(request: BlkRequest | undefined, memory: GuestMemory): void {
  for (let segment = 0; request !== undefined && segment < request.count; segment++) {
    if (viewOf(memory, request.address(segment), request.length(segment)) !== undefined) continue
    throw new VirtqueueError(`0x${request.address(segment).toString(16)} is not RAM any more, chain ${request.head}`)
  }
}

function parseHeader(request: BlkRequest, memory: GuestMemory): void {
  const address = request.address(0)
  const region = memory.region(address)
  if (region !== undefined && request.length(0) >= HEADER_SIZE) {
    setHeader(request, region.data, region.offset(address))
    return
  }
  seekReadable(request, 0)
  setHeader(request, new DataView(copyData(request, memory, HEADER_SIZE).buffer), 0)
}

function setHeader(request: BlkRequest, data: DataView, at: number): void {
  request.type = data.getUint32(at, true)
  const high = data.getUint32(at + 12, true)
  // As in SplitQueue: small numbers stay small integers.
  request.sector = high === 0 ? data.getUint32(at + 8, true) : data.getUint32(at + 8, true) + high * 0x1_0000_0000
}

/** Lets the data begin `offset` bytes into the readable part of the chain. */
function seekReadable(request: BlkRequest, offset: number): void {
  let segment = 0
  while (segment < request.readableCount && offset >= request.length(segment)) {
    offset -= request.length(segment)
    segment++
  }
  request.dataSegment = segment
  request.dataOffset = offset
}

/** The first `length` bytes of the request's data, copied out of guest memory. */
function copyData(request: BlkRequest, memory: GuestMemory, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  eachPiece(request, memory, length, (view, done) => bytes.set(view, done))
  return bytes
}

/** Stores `bytes` at the start of the request's writable data, as far as they fit. Returns the bytes stored. */
export function storeData(request: BlkRequest, memory: GuestMemory, bytes: Uint8Array): number {
  const length = Math.min(bytes.length, request.dataLength)
  eachPiece(request, memory, length, (view, done) => view.set(bytes.subarray(done, done + view.length)))
  return length
}

/** Walks over the first `length` bytes of the request's data as views of guest RAM. For what is small and rare. */
function eachPiece(request: BlkRequest, memory: GuestMemory, length: number, use: (view: Uint8Array, done: number) => void): void {
  let segment = request.dataSegment
  let offset = request.dataOffset
  for (let done = 0; done < length; segment++, offset = 0) {
    const part = Math.min(length - done, request.length(segment) - offset)
    const view = viewOf(memory, request.address(segment) + offset, part)
    if (view !== undefined) use(view, done)
    done += part
  }
}

/** The segments of a DISCARD or WRITE_ZEROES request whose data is a whole number of them. Copied once, for the guest may change them. */
export function readRangeSegments(request: BlkRequest, memory: GuestMemory): RangeSegment[] {
  const data = new DataView(copyData(request, memory, request.dataLength).buffer)
  return Array.from({ length: request.dataLength / SEGMENT_SIZE }, (_, index) => ({
    sector: data.getUint32(index * SEGMENT_SIZE, true) + data.getUint32(index * SEGMENT_SIZE + 4, true) * 0x1_0000_0000,
    sectors: data.getUint32(index * SEGMENT_SIZE + 8, true),
    flags: data.getUint32(index * SEGMENT_SIZE + 12, true),
  }))
}
