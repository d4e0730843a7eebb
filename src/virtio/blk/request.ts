/** BlkRequest: a descriptor chain read as a block request ([VIRTIO] 5.2.6). No input or output happens here. */
import { DescriptorChain } from "../descriptor-chain.ts"
import { type GuestMemory, viewOf } from "../guest-memory.ts"
import { VirtqueueError } from "../split-queue.ts"
import { HEADER_SIZE, SEGMENT_SIZE, VIRTIO_BLK_T, VIRTIO_BLK_T_BARRIER } from "./spec.ts"

/** One request. Objects are filled anew for each request: nothing is allocated for a request of the usual size. */
export class BlkRequest {
  readonly chain = new DescriptorChain()
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
}

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
  const { chain } = request
  if (chain.readableLength < HEADER_SIZE) throw new VirtqueueError(`chain ${chain.head} has ${chain.readableLength} readable bytes, a request header takes ${HEADER_SIZE}`)
  if (chain.writableLength === 0) throw new VirtqueueError(`chain ${chain.head} has no writable byte for a status`)
  const last = chain.count - 1
  request.statusAddress = number(chain.addresses, last) + number(chain.lengths, last) - 1
  parseHeader(request, memory)
  if (legacy) {
    request.type = (request.type & ~VIRTIO_BLK_T_BARRIER) >>> 0
    if (request.type === VIRTIO_BLK_T.FLUSH_OUT) request.type = VIRTIO_BLK_T.FLUSH
  }
  if (request.type === VIRTIO_BLK_T.IN || request.type === VIRTIO_BLK_T.GET_ID) {
    request.dataLength = chain.writableLength - 1
    request.dataSegment = chain.readableCount
    request.dataOffset = 0
  } else {
    request.dataLength = chain.readableLength - HEADER_SIZE
    seek(request, HEADER_SIZE)
  }
}

function parseHeader(request: BlkRequest, memory: GuestMemory): void {
  const { chain } = request
  const address = number(chain.addresses, 0)
  const region = memory.region(address)
  if (region !== undefined && number(chain.lengths, 0) >= HEADER_SIZE) {
    const { data } = region
    const at = address - region.start
    request.type = data.getUint32(at, true)
    request.sector = data.getUint32(at + 8, true) + data.getUint32(at + 12, true) * 0x1_0000_0000
    return
  }
  request.dataSegment = 0
  request.dataOffset = 0
  const data = new DataView(copyData(request, memory, HEADER_SIZE).buffer)
  request.type = data.getUint32(0, true)
  request.sector = data.getUint32(8, true) + data.getUint32(12, true) * 0x1_0000_0000
}

/** Lets the data begin `offset` bytes into the readable part of the chain. */
function seek(request: BlkRequest, offset: number): void {
  const { chain } = request
  let segment = 0
  while (segment < chain.readableCount && offset >= number(chain.lengths, segment)) {
    offset -= number(chain.lengths, segment)
    segment++
  }
  request.dataSegment = segment
  request.dataOffset = offset
}

/** The first `length` bytes of the request's data, copied out of guest memory. */
function copyData(request: BlkRequest, memory: GuestMemory, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  let segment = request.dataSegment
  let offset = request.dataOffset
  for (let done = 0; done < length; segment++, offset = 0) {
    const part = Math.min(length - done, number(request.chain.lengths, segment) - offset)
    const view = viewOf(memory, number(request.chain.addresses, segment) + offset, part)
    if (view !== undefined) bytes.set(view, done)
    done += part
  }
  return bytes
}

/** Stores `bytes` at the start of the request's writable data, as far as they fit. Returns the bytes stored. */
export function storeData(request: BlkRequest, memory: GuestMemory, bytes: Uint8Array): number {
  const length = Math.min(bytes.length, request.dataLength)
  let segment = request.dataSegment
  for (let done = 0; done < length; segment++) {
    const part = Math.min(length - done, number(request.chain.lengths, segment))
    viewOf(memory, number(request.chain.addresses, segment), part)?.set(bytes.subarray(done, done + part))
    done += part
  }
  return length
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

/** Element `index` of a segment array, which the caller knows to be there. */
function number(values: Float64Array, index: number): number {
  return values[index] ?? 0
}
