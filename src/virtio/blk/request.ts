/** BlkRequest: a request, parsed from a descriptor chain ([VIRTIO] 5.2.6). No I/O happens here. */
import type { Zones } from "../../backing/backing.ts"
import { type GuestMemory, RamRegion } from "../guest-memory.ts"
import { type DescriptorChain, SegmentList, SegmentRun, stillRam } from "../queue/descriptor-chain.ts"
import type { TakenChain } from "../queue/ring.ts"
import { VirtqueueError } from "../queue/virtqueue-error.ts"
import { APPEND_SECTOR_SIZE, type BlkStatus, HEADER_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T, VIRTIO_BLK_T_BARRIER } from "./spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const HEADER = HEADER_SIZE
const { OK } = VIRTIO_BLK_S
const { IN, OUT, GET_ID, GET_LIFETIME, FLUSH, FLUSH_OUT, DISCARD, WRITE_ZEROES, SECURE_ERASE, ZONE_APPEND, ZONE_REPORT } = VIRTIO_BLK_T

/** The outcome of a request before the backing has answered it. */
export const WAITING = -1

/** The limits that requests are checked by. */
export interface RequestLimits {
  /** Sectors. */
  readonly capacity: number
  readonly readOnly: boolean
  /** Of a zoned disk. */
  readonly zones?: Zones | undefined
}

/** A part of the disk, in bytes. */
export interface DiskRange {
  readonly offset: number
  readonly length: number
  /** Of WRITE_ZEROES: the space of the range may be freed. */
  readonly mayUnmap: boolean
}

const NO_RANGES: readonly DiskRange[] = []
const NOWHERE = new RamRegion(0, new Uint8Array(0))

/** A request. Its segments are its data. Objects are reused. */
export class BlkRequest extends SegmentRun implements TakenChain {
  /** See `TakenChain`. */
  head = 0
  place = 0
  slots = 0
  /** The status: OK unless something has failed, WAITING before the backing has answered. */
  outcome: BlkStatus | typeof WAITING = WAITING
  /** The type in the header; of a legacy request, without the barrier bit. */
  type = 0
  /** First sector; inexact above 2^53, which is far beyond every capacity. */
  sector = 0
  /** Bytes of data: writable bytes before the status byte, or readable bytes after the header, depending on the type. */
  dataLength = 0
  /** The place of the status byte: the last device-writable byte of the chain, in any framing. */
  statusRegion = NOWHERE
  statusOffset = 0
  /** Device-writable bytes before the status byte. */
  writableBefore = 0
  /** Of requests for ranges: the ranges, with adjacent ones joined, after they have been read. */
  ranges: readonly DiskRange[] = NO_RANGES
  /** When it was taken from the ring, in milliseconds of `performance.now()`; 0 if it is not timed. */
  arrived = 0
  /** Of a request that succeeds: the device's answer, which goes into its data, or its tail. */
  answer: Uint8Array | undefined
  /** Of ZONE_APPEND: the place of append_sector, before the status; undefined if there is no room for it. */
  tail: SegmentRun | undefined

  // Progress of a group that one call of the backing serves, in its first request:

  /** Bytes to do for the group: of data, or of ranges. */
  total = 0
  /** Bytes done, and bytes of the present call. */
  done = 0
  slice = 0
  /** The device's own buffer for the call, if the backing is asynchronous. */
  own: Uint8Array | undefined

  /** A view of `bytes` for the guest that writes numbers in the guest's byte order. */
  numbers(bytes: Uint8Array): DataView {
    return this.statusRegion.numbers(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  /** Finds data and status in replaced RAM. @throws VirtqueueError when they are not in RAM any more */
  override relocate(memory: GuestMemory): void {
    try {
      super.relocate(memory)
      this.tail?.relocate(memory)
      const address = this.statusRegion.start + this.statusOffset
      this.statusRegion = stillRam(memory, address, 1)
      this.statusOffset = this.statusRegion.offset(address)
    } catch (error) {
      throw error instanceof VirtqueueError ? new VirtqueueError(`${error.message}, chain ${this.head}`) : error
    }
  }
}

/**
 * Parses `chain` into `request`. Reads the header once, because the guest may change it meanwhile. `legacy`: of a driver from before virtio
 * 1.0. @throws VirtqueueError if it cannot be answered: no whole header, or no byte for a status
 */
export function parseRequest(request: BlkRequest, chain: DescriptorChain, legacy: boolean): void {
  const { readableLength, writableLength, count } = chain
  if (readableLength < HEADER) throw noHeader(chain)
  if (writableLength === 0) throw noStatus(chain)
  const headerRegion = chain.region(0)
  const isWhole = chain.length(0) >= HEADER
  const header = isWhole ? headerRegion.data : copyNumbers(chain, HEADER)
  const at = isWhole ? chain.offset(0) : 0
  let type = header.getUint32(at, true)
  if (legacy) {
    type = (type & ~VIRTIO_BLK_T_BARRIER) >>> 0
    if (type === FLUSH_OUT) type = FLUSH
  }
  request.head = chain.head
  request.place = chain.place
  request.slots = chain.slots
  request.outcome = OK
  request.type = type
  request.sector = sectorAt(header, at + 8, headerRegion.isBigEndian)
  request.statusRegion = chain.region(count - 1)
  request.statusOffset = chain.offset(count - 1) + chain.length(count - 1) - 1
  request.writableBefore = writableLength - 1
  request.done = 0
  request.arrived = 0
  request.answer = undefined
  request.ranges = NO_RANGES
  request.tail = undefined
  request.segments = chain.segments
  request.dataLength = isAnswered(type) ? writableLength - 1 : readableLength - HEADER
  placeData(request, chain)
  if (type === ZONE_APPEND && writableLength > APPEND_SECTOR_SIZE) {
    request.tail = new SegmentRun(new SegmentList(2))
    takeData(request.tail, chain, readableLength + writableLength - 1 - APPEND_SECTOR_SIZE, APPEND_SECTOR_SIZE)
  }
}

// Errors are built out of line: their templates would make `parseRequest` too large for V8 to optimise well.

function noHeader({ head, readableLength }: DescriptorChain): VirtqueueError {
  return new VirtqueueError(`chain ${head} has ${readableLength} readable bytes, a request header takes ${HEADER}`)
}

function noStatus({ head }: DescriptorChain): VirtqueueError {
  return new VirtqueueError(`chain ${head} has no writable byte for a status`)
}

/**
 * Finds the data among the segments of the chain. Usually the header and the status have segments of their own, so the data segments can be
 * used as they are; otherwise they are copied, cut to size.
 */
function placeData(request: BlkRequest, chain: DescriptorChain): void {
  const { count, readableCount, readableLength } = chain
  const isFromDevice = isAnswered(request.type)
  if (isFromDevice ? chain.length(count - 1) === 1 : chain.length(0) === HEADER) {
    const before = isFromDevice ? readableCount : 1
    request.first = chain.first + before
    request.count = (isFromDevice ? count - 1 : readableCount) - before
    return
  }
  request.first = request.segments.count
  takeData(request, chain, isFromDevice ? readableLength : HEADER, request.dataLength)
}

/** Whether requests of `type` write data, so that write-through applies to them. */
export function isWrite({ type }: BlkRequest): boolean {
  return type === OUT || type === WRITE_ZEROES || type === SECURE_ERASE || type === ZONE_APPEND
}

/** Whether requests of `type` change the disk. */
export function changesDisk(request: BlkRequest): boolean {
  return isWrite(request) || request.type === DISCARD || request.type > ZONE_REPORT
}

/** Whether the device writes the data of requests of `type`. */
export function isAnswered(type: number): boolean {
  return type === IN || type === GET_ID || type === GET_LIFETIME || type === ZONE_REPORT
}

/** The 64-bit sector number at `at` of `numbers`, which come from `run`, in the guest's byte order. Inexact above 2^53. */
export function readSector(run: SegmentRun, numbers: DataView, at: number): number {
  return sectorAt(numbers, at, run.region(0).isBigEndian)
}

function sectorAt(numbers: DataView, at: number, isBigEndian: boolean): number {
  const low = numbers.getUint32(isBigEndian ? at + 4 : at, true)
  const high = numbers.getUint32(isBigEndian ? at : at + 4, true)
  return high === 0 ? low : low + high * 2 ** 32
}

/** Sets `run` to the `length` bytes of `chain` from byte `from` on. */
function takeData(run: SegmentRun, chain: DescriptorChain, from: number, length: number): void {
  const { segments } = run
  run.count = 0
  for (let index = 0, skip = from, left = length; left > 0; index++) {
    const passed = Math.min(skip, chain.length(index))
    const part = Math.min(chain.length(index) - passed, left)
    skip -= passed
    left -= part
    if (part === 0) continue
    segments.push(segments.indexOf(chain.region(index)), chain.offset(index) + passed, part)
    run.count++
  }
}

/** The first `length` bytes of `run`, 1 at least, copied from guest memory, in a view that reads numbers in the guest's byte order. */
export function copyNumbers(run: SegmentRun, length: number): DataView {
  const bytes = new Uint8Array(length)
  eachPiece(run, length, (view, done) => bytes.set(view, done))
  return run.region(0).numbers(bytes.buffer, 0, length)
}

/** Stores `bytes` at the start of the request's data, as far as they fit. Returns the bytes stored. */
export function storeData(request: BlkRequest, bytes: Uint8Array): number {
  const length = Math.min(bytes.length, request.dataLength)
  storeBytes(request, bytes, length)
  return length
}

/** Stores the first `length` of `bytes` at the start of `run`. */
export function storeBytes(run: SegmentRun, bytes: Uint8Array, length: number): void {
  eachPiece(run, length, (view, done) => view.set(bytes.subarray(done, done + view.length)))
}

/** Zeroes the request's data from byte `from` on. */
export function zeroData(request: BlkRequest, from: number): void {
  eachPiece(request, request.dataLength, (view, done) => view.fill(0, Math.min(Math.max(from - done, 0), view.length)))
}

/** Calls `use` with views of the first `length` bytes of `run`. For small and rare transfers. */
function eachPiece(run: SegmentRun, length: number, use: (view: Uint8Array, done: number) => void): void {
  for (let index = 0, done = 0; done < length; index++) {
    const part = Math.min(length - done, run.length(index))
    use(run.region(index).viewAt(run.offset(index), part), done)
    done += part
  }
}

/**
 * Relocates the requests from `first` to before `end`. A detached request is relocated by its keeper; its slot has an empty one.
 * @throws VirtqueueError when one of them is not in RAM any more
 */
export function relocateAll(requests: readonly BlkRequest[], first: number, end: number, memory: GuestMemory): void {
  for (let index = first; index < end; index++) {
    const request = requests[index]
    if (request !== undefined && request.outcome !== WAITING) request.relocate(memory)
  }
}
