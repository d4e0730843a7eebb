/**
 * Batch: requests taken from one queue before any of them is acted upon. It is filled anew each time, and lives on when a turn ends in
 * the middle of it. Nothing in it is acted upon or completed once its ring is no longer the queue's.
 */
import type { Zones } from "../../backing/backing.ts"
import type { GuestMemory } from "../guest-memory.ts"
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
/** A shift by so many bits makes sectors of bytes: dividing them costs 8 ns (measured). */
const SECTOR_BITS = 31 - Math.clz32(SECTOR_SIZE)
const MERGE_BYTES = SLICE_BYTES

/** Requests in it at most. */
export const BATCH_REQUESTS = 256
/** The batch is closed once it has this many segments, so that its memory stays bounded whatever chains look like. */
const BATCH_SEGMENTS = 8192
/** So is it once so many descriptors have been read for it: nothing looks at the clock meanwhile. */
const BATCH_DESCRIPTORS = 8192
/** So is it once it has as many bytes of data as a turn moves: requests of other queues wait for a batch, however small they are. */
const BATCH_BYTES = TURN_BYTES
/** As many descriptors are read while one segment of a range is judged. */
const SEGMENT_DESCRIPTORS = 4
/** Buffers of one merged call at most: larger calls gain nothing. */
const MERGE_BUFFERS = 1024

/** The status to refuse a request with, or OK. */
type Refusal = (request: BlkRequest) => BlkStatus

export class Batch {
  readonly requests: BlkRequest[] = []
  queue: Virtqueue | undefined
  ring: Ring | undefined
  /** Number of requests in it. */
  taken = 0
  /** No more are taken into it. */
  most = BATCH_REQUESTS
  /** Those before this index have been acted upon. */
  next = 0
  /** Those before this index have been completed, or are in the hands of a `Pending`. */
  settled = 0
  /** Writes have been acted upon since they were last made stable (write-through) or that was not needed. */
  hasWritten = false
  /** Those before this index are not merged: a call for several of them has failed. */
  apart = 0
  /** What broke the ring behind the last request taken: thrown once those are through. */
  brokenBy: VirtqueueError | undefined
  /** The `Observation` is to be told of their completion. */
  isObserved = false
  /** Descriptors that have been read for it, and what took as long. */
  descriptors = 0
  readonly #segments = new SegmentList()
  /** The chain that is being parsed. Its segments stay: those with data are the request's. */
  readonly #chain = new DescriptorChain(this.#segments)
  /** Bytes of data of the requests in it. */
  #bytes = 0
  /** Of the guest memory in which the requests lie. */
  generation = 0

  /** Some are to be acted upon or completed, and may be. */
  get unfinished(): boolean {
    return this.settled < this.taken && this.queue?.ring === this.ring
  }

  /** No more requests are to be taken into it. A method: V8 calls its runtime for a private getter (30 ns, measured). */
  #isFull(): boolean {
    if (this.taken >= this.most || this.descriptors >= BATCH_DESCRIPTORS) return true
    return this.#segments.count >= BATCH_SEGMENTS || this.#bytes >= BATCH_BYTES
  }

  /** Begins anew, with requests of `ring`, which has been refreshed. */
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
      // Not the sums of `usual`: they are of an earlier batch where nobody has read descriptors for this one.
      this.#bytes += request.dataLength
      this.ring?.adopt?.(request)
    }
    this.next = usual.next
    usual.count = 0
  }

  /**
   * Takes requests that `ring.look` has seen, behind the one that `walked` has left; the outcome of one that is to be refused says so.
   * Returns whether none is left there. What was taken before a chain that is broken is good.
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

  /** Adds the request whose chain has been taken. @throws VirtqueueError when it is broken */
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

  /** Finds the requests again that are left, when guest memory has been replaced meanwhile. @throws VirtqueueError when it is gone */
  refresh(memory: GuestMemory): void {
    const { generation } = memory
    if (generation === this.generation) return
    relocateAll(this.requests, this.settled, this.taken, memory)
    this.generation = generation
  }

  /**
   * The end of the group that begins at `first`: reads, or writes, of neighbouring sectors, which one call serves; any other request is a
   * group of its own. The bytes that the group moves, discards or zeroes go into `total` of the first.
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

  /** Takes request `index` out of the batch, for somebody who acts on it alone, as after `beginAgain`. */
  detachAlone(index: number, done = 0, zones?: Zones): BlkRequest[] {
    beginAgain(this.slot(index), done, zones)
    return this.detach(index, index + 1)
  }

  /** Takes the requests of a group out of the batch, for somebody who keeps them. */
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
 * Gets `request` ready to be acted upon alone: from its beginning, unless it has moved a write pointer of `zones`; then on what is behind
 * its first `done` bytes.
 */
export function beginAgain(request: BlkRequest, done: number, zones: Zones | undefined): void {
  const { type, dataLength } = request
  request.own = undefined
  // A flush is one call, whatever it counts in.
  request.slice = COMMAND_TOTAL
  request.total = type === IN || type === OUT ? dataLength : type === FLUSH ? COMMAND_TOTAL : totalOf(request)
  request.done = isRepeatable(request, zones) ? 0 : Math.min(done, request.total)
}

/** What there is to do for a request that is not a transfer: bytes of ranges, or a command. */
function totalOf(request: BlkRequest): number {
  return isCommand(request.type) ? COMMAND_TOTAL : rangesLength(request.ranges)
}

/** A slot whose request has been detached holds one that was never filled: it WAITS. */
function isOurs({ outcome }: BlkRequest): boolean {
  return outcome >= OK
}
