/** BlkRequest: a descriptor chain read as a block request ([VIRTIO] 5.2.6). No input or output happens here. */
import type { GuestMemory } from "../guest-memory.ts"
import { DescriptorChain } from "../queue/descriptor-chain.ts"
import { VirtqueueError } from "../queue/virtqueue-error.ts"
import { type BlkStatus, HEADER_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T, VIRTIO_BLK_T_BARRIER } from "./spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { OK } = VIRTIO_BLK_S
const { IN, GET_ID, FLUSH, FLUSH_OUT } = VIRTIO_BLK_T
const HEADER = HEADER_SIZE

/** The outcome of a request that the backing has not answered yet. */
export const WAITING = -1

/** A part of the disk, in bytes. */
export interface DiskRange {
  readonly offset: number
  readonly length: number
  /** Of WRITE_ZEROES: the space behind it may be freed. */
  readonly mayUnmap: boolean
}

const NO_RANGES: readonly DiskRange[] = []

/** A chain and what it asks for. Objects are filled anew for each request. */
export class BlkRequest extends DescriptorChain {
  /** How it ends: OK until something is wrong with it, WAITING while the backing works on it. */
  outcome: BlkStatus | typeof WAITING = WAITING
  /** As in the header; of a legacy request, without the barrier bit. */
  type = 0
  /** First sector; inexact above 2^53, which is far beyond every capacity. */
  sector = 0
  /** Bytes of data: what can be written before the status byte, or what is to be read after the header, as the type says. */
  dataLength = 0
  /** Where the data begin: a segment of the chain, and a byte offset in it. */
  dataSegment = 0
  dataOffset = 0
  /** Of DISCARD and WRITE_ZEROES, once they have been read: what to do, neighbours joined. */
  ranges: readonly DiskRange[] = NO_RANGES

  // Of the first request of a group that one call on the backing serves:

  /** Bytes to do for the group: of data, or of ranges. */
  total = 0
  /** Bytes done, and bytes of the call that is being made. */
  done = 0
  slice = 0
  /** A buffer of the device's own for the call, where the backing is asynchronous. */
  own: Uint8Array | undefined

  /** The index of the segment whose last byte is the status byte: the last device-writable byte of the chain, however it is split. */
  get statusSegment(): number {
    return this.count - 1
  }
}

/**
 * Reads the chain of `request`. The header is read once, whatever the guest does to it meanwhile. `legacy`: of a driver from before
 * virtio 1.0. @throws VirtqueueError when it cannot be answered: no whole header, or no byte for a status
 */
export function parseRequest(request: BlkRequest, legacy: boolean): void {
  if (request.readableLength < HEADER) throw new VirtqueueError(`chain ${request.head} has ${request.readableLength} readable bytes, a request header takes ${HEADER}`)
  if (request.writableLength === 0) throw new VirtqueueError(`chain ${request.head} has no writable byte for a status`)
  request.outcome = OK
  request.done = 0
  request.slice = 0
  parseHeader(request)
  if (legacy) {
    request.type = (request.type & ~VIRTIO_BLK_T_BARRIER) >>> 0
    if (request.type === FLUSH_OUT) request.type = FLUSH
  }
  if (request.type === IN || request.type === GET_ID) {
    request.dataLength = request.writableLength - 1
    request.dataSegment = request.readableCount
    request.dataOffset = 0
  } else {
    request.dataLength = request.readableLength - HEADER
    seekReadable(request, HEADER)
  }
}

function parseHeader(request: BlkRequest): void {
  if (request.length(0) >= HEADER) {
    setHeader(request, request.region(0).data, request.offset(0))
    return
  }
  request.dataSegment = 0
  request.dataOffset = 0
  setHeader(request, new DataView(copyData(request, HEADER).buffer), 0)
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
export function copyData(request: BlkRequest, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  eachPiece(request, length, (view, done) => bytes.set(view, done))
  return bytes
}

/** Stores `bytes` at the start of the request's writable data, as far as they fit. Returns the bytes stored. */
export function storeData(request: BlkRequest, bytes: Uint8Array): number {
  const length = Math.min(bytes.length, request.dataLength)
  eachPiece(request, length, (view, done) => view.set(bytes.subarray(done, done + view.length)))
  return length
}

/** Walks over the first `length` bytes of the request's data as views of guest RAM. For what is small and rare. */
function eachPiece(request: BlkRequest, length: number, use: (view: Uint8Array, done: number) => void): void {
  let segment = request.dataSegment
  let offset = request.dataOffset
  for (let done = 0; done < length; segment++, offset = 0) {
    const part = Math.min(length - done, request.length(segment) - offset)
    use(request.region(segment).bytes.subarray(request.offset(segment) + offset, request.offset(segment) + offset + part), done)
    done += part
  }
}

/** Finds the segments of all of these requests in the RAM that has replaced the one where the queue found them. @throws VirtqueueError when it is gone */
export function relocateAll(requests: readonly BlkRequest[], first: number, end: number, memory: GuestMemory): void {
  for (let index = first; index < end; index++) requests[index]?.relocate(memory)
}
