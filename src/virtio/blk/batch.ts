/**
 * Batch: requests that are taken from one queue before the first of them is executed. The same object is filled for each batch; a batch may
 * continue over several turns. After a reset of its queue, none of its requests is executed or completed.
 */
import type { Zones } from "../../backing/backing.ts"
import type { GuestMemory, Movable } from "../guest-memory.ts"
import { DescriptorChain, SegmentList } from "../queue/descriptor-chain.ts"
import type { Ring } from "../queue/ring.ts"
import { VirtqueueError } from "../queue/virtqueue-error.ts"
import { TURN_BYTES } from "../turn.ts"
import type { Virtqueue } from "../virtqueue.ts"
import { SLICE_BYTES } from "./executor.ts"
import { BlkRequest, parseRequest, relocateAll } from "./request.ts"
import { judgedSegments, rangesLength } from "./ranges.ts"
import { COMMAND_TOTAL, isCommand } from "./commands.ts"
import { isRepeatable } from "./zoned/requests.ts"
import type { UsualRequests } from "./usual/requests.ts"
import type { WalkedRequests } from "./usual/walked-requests.ts"
import { type BlkStatus, SECTOR_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T } from "./spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { OK } = VIRTIO_BLK_S
const { IN, OUT, FLUSH } = VIRTIO_BLK_T
/** A shift by so many bits converts bytes to sectors: a division takes 8 ns (measured). */
const SECTOR_BITS = 31 - Math.clz32(SECTOR_SIZE)
const MERGE_BYTES = SLICE_BYTES

/** Maximum of requests in a batch. */
export const BATCH_REQUESTS = 256
/** A batch with this many segments takes no more requests, so that its memory is bounded for any chains. */
const BATCH_SEGMENTS = 8192
/** The same for descriptors that were read for it, because nobody reads the clock meanwhile. */
const BATCH_DESCRIPTORS = 8192
/** The same for bytes of data: as many as a turn moves, because even small requests of other queues wait for the batch. */
const BATCH_BYTES = TURN_BYTES
/** Checking one segment of a range takes as long as reading so many descriptors. */
const SEGMENT_DESCRIPTORS = 4
/** Maximum of buffers in one merged call: larger calls are not faster. */
const MERGE_BUFFERS = 1024

/** The status to refuse a request with, or OK. */
type Refusal = (request: BlkRequest) => BlkStatus

export class Batch implements Movable {
  readonly requests: BlkRequest[] = []
  queue: Virtqueue | undefined
  ring: Ring | undefined
  /** Number of requests in it. */
  taken = 0
  /** No more are taken into it. */
  most = BATCH_REQUESTS
  /** Requests before this index have been executed. */
  next = 0
  /** Requests before this index have been completed, or handed over to a `Pending`. */
  settled = 0
  /** Whether writes have been executed that a write-through disk must still flush. */
  hasWritten = false
  /** Requests before this index are not merged, because a call for several of them has failed. */
  apart = 0
  /** The error that broke the ring after the last request taken: thrown when the requests before it have ended. */
  brokenBy: VirtqueueError | undefined
  /** Whether to report completions to the `Observation`. */
  isObserved = false
  /** Descriptors that were read for the batch, plus other work in the same unit. */
  descriptors = 0
  readonly #segments = new SegmentList()
  /** The chain that is being parsed. Its segments with data become the request's. */
  readonly #chain = new DescriptorChain(this.#segments)
  /** Bytes of data of the requests in it. */
  #bytes = 0
  /** The generation of the guest memory that the requests point into. */
  generation = 0

  /** Whether some requests still have to be executed or completed, and no reset has ended them. */
  get unfinished(): boolean {
    return this.settled < this.taken && this.queue?.ring === this.ring
  }

  /** Whether the batch takes no more requests. A method, because V8 calls its runtime for a private getter (30 ns, measured). */
  #isFull(): boolean {
    if (this.taken >= this.most || this.descriptors >= BATCH_DESCRIPTORS) return true
    return this.#segments.count >= BATCH_SEGMENTS || this.#bytes >= BATCH_BYTES
  }

  /** Begins a new batch for requests of `ring`, which has been refreshed. */
  begin(queue: Virtqueue, ring: Ring): void {
    this.#segments.clear()
    this.queue = queue
    this.ring = ring
    this.next = 0
    this.settled = 0
    this.taken = 0
    this.apart = 0
    this.hasWritten = false
    this.brokenBy = undefined
    this.isObserved = false
    this.#bytes = 0
    this.descriptors = 0
    this.generation = ring.generation
  }

  /** Takes over usual requests. */
  adopt(usual: UsualRequests): void {
    let { place } = usual
    for (let index = 0; index < usual.count; index++) {
      const request = this.slot(this.taken++)
      usual.copy(index, place, request)
      place += request.slots
      // Not the sums of `usual`, which may be those of an earlier batch.
      this.#bytes += request.dataLength
      this.ring?.adopt?.(request)
    }
    this.next = usual.next
    usual.count = 0
  }

  /**
   * Takes requests that `ring.look` has seen, after the one that `walked` has left, and sets the outcome of those to refuse. Returns
   * whether none is left. Requests before a broken chain are valid.
   */
  take(queue: Virtqueue, ring: Ring, refusal: Refusal, walked: WalkedRequests): boolean {
    try {
      if (walked.takeLeft(this.#chain)) {
        ring.adopt?.(this.#chain)
        this.#add(queue, refusal)
      }
      while (!this.#isFull()) if (!this.#takeNext(queue, ring, refusal)) return true
    } catch (error) {
      if (!(error instanceof VirtqueueError)) throw error
      this.brokenBy = error
    }
    return false
  }

  /** Returns false when there is no chain. @throws VirtqueueError when the ring, the chain or the request is broken */
  #takeNext(queue: Virtqueue, ring: Ring, refusal: Refusal): boolean {
    if (!ring.pop(this.#chain)) return false
    this.#add(queue, refusal)
    return true
  }

  /** Adds the request of the chain that was taken. @throws VirtqueueError when it is broken */
  #add(queue: Virtqueue, refusal: Refusal): void {
    const chain = this.#chain
    this.descriptors += chain.descriptors
    const request = this.slot(this.taken)
    parseRequest(request, chain, queue.legacy)
    request.outcome = refusal(request)
    if (request.type > FLUSH) this.descriptors += SEGMENT_DESCRIPTORS * judgedSegments(request)
    this.#bytes += request.dataLength
    this.taken++
  }

  slot(index: number): BlkRequest {
    return this.requests[index] ?? this.#newSlot(index)
  }

  #newSlot(index: number): BlkRequest {
    const request = new BlkRequest(this.#segments)
    this.requests[index] = request
    return request
  }

  /** Forgets what is in it. */
  drop(): void {
    this.taken = 0
    this.settled = 0
    this.brokenBy = undefined
  }

  /** Finds the remaining requests in replaced guest memory. @throws VirtqueueError when they are not in RAM any more */
  refresh(memory: GuestMemory): void {
    const { generation } = memory
    relocateAll(this.requests, this.settled, this.taken, memory)
    this.generation = generation
  }

  /**
   * Returns the end of the group that begins at `first`: consecutive reads, or writes, of adjacent sectors, which one call serves. Any
   * other request is a group of one. Sets `total` of the first request to the bytes that the group moves, discards or zeroes.
   */
  groupEnd(first: number): number {
    const leader = this.slot(first)
    const { type, sector } = leader
    let end = first + 1
    if (type !== IN && type !== OUT) {
      leader.total = totalOf(leader)
      return end
    }
    let bytes = leader.dataLength
    if (bytes > 0 && bytes < MERGE_BYTES && first >= this.apart) {
      let buffers = leader.count
      for (; end < this.taken; end++) {
        const next = this.slot(end)
        if (next.sector !== sector + (bytes >>> SECTOR_BITS) || next.type !== type || next.outcome !== OK || next.dataLength === 0) break
        buffers += next.count
        if (bytes + next.dataLength > MERGE_BYTES || buffers > MERGE_BUFFERS) break
        bytes += next.dataLength
      }
    }
    leader.total = bytes
    return end
  }

  /** Takes request `index` out of the batch, prepared by `beginAgain` to be executed alone. */
  detachAlone(index: number, done = 0, zones?: Zones): BlkRequest[] {
    beginAgain(this.slot(index), done, zones)
    return this.detach(index, index + 1)
  }

  /** Takes the requests of a group out of the batch; the caller keeps them. */
  detach(first: number, end: number): BlkRequest[] {
    const requests: BlkRequest[] = []
    for (let index = first; index < end; index++) {
      const request = this.slot(index)
      this.requests[index] = new BlkRequest(this.#segments)
      request.detach()
      requests.push(request)
    }
    return requests
  }

  /** The chains of `queue` that are not completed. */
  chains(queue: Virtqueue): BlkRequest[] {
    return this.unfinished && this.queue === queue ? this.requests.slice(this.settled, this.taken).filter(isOurs) : []
  }
}

/**
 * Prepares `request` to be executed alone: from its beginning, or after its first `done` bytes if it has moved a write pointer of `zones`.
 */
export function beginAgain(request: BlkRequest, done: number, zones: Zones | undefined): void {
  const { type, dataLength } = request
  request.own = undefined
  // A flush is a single call, in whichever units it counts.
  request.slice = COMMAND_TOTAL
  request.total = type === IN || type === OUT ? dataLength : type === FLUSH ? COMMAND_TOTAL : totalOf(request)
  request.done = isRepeatable(request, zones) ? 0 : Math.min(done, request.total)
}

/** The total of a request that is not a transfer: bytes of ranges, or a command. */
function totalOf(request: BlkRequest): number {
  return isCommand(request.type) ? COMMAND_TOTAL : rangesLength(request.ranges)
}

/** False for a detached request, whose slot has an empty one, with the outcome WAITING. */
function isOurs({ outcome }: BlkRequest): boolean {
  return outcome >= OK
}
